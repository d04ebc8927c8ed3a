//! Looking through the keys of a namespace on all nodes, step by step, while others write and slots
//! move. What becomes of them is not its business.

use crate::backend::{Backend, Key};
use coordinator_core::{Error, ErrorKind, Result, key::Name};

/// How often all nodes are looked through in a row without a change of where keys lie. What was
/// stored, or came to its node, behind the first look is found by the second.
const LOOKS: u32 = 2;
/// After how many changes of where keys lie it is given up.
const CHANGES_MAX: u32 = 10;

/// A walk under way.
pub(crate) struct Walk<'a> {
    backend: &'a dyn Backend,
    namespace: &'a Name,
    /// Where keys lie, and where to look for them; none before it begins.
    layout: Option<(u64, Vec<u16>)>,
    /// At which of the nodes it is, and where there.
    at: usize,
    cursor: u64,
    looks: u32,
    changes: u32,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(backend: &'a dyn Backend, namespace: &'a Name) -> Self {
        Self { backend, namespace, layout: None, at: 0, cursor: 0, looks: 0, changes: 0 }
    }

    /// Some keys, each of them told twice at least; none at the end.
    ///
    /// # Errors
    /// As the server's, and [`Unavailable`](ErrorKind::Unavailable) where keys do not stay where
    /// they are.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<Key>>> {
        loop {
            if let Some((_, nodes)) = &self.layout
                && let Some(node) = nodes.get(self.at)
            {
                let some = self.backend.scan(self.namespace, *node, self.cursor).await?;
                self.cursor = some.next;
                self.at += usize::from(some.next == 0);
                return Ok(Some(some.keys));
            }
            let layout = self.backend.layout().await?;
            match &self.layout {
                Some((before, _)) if *before == layout => self.looks += 1,
                // What moved from a node that was ahead to one behind was not seen.
                Some(_) => (self.looks, self.changes) = (0, self.changes + 1),
                None => {}
            }
            if self.looks == LOOKS {
                return Ok(None);
            }
            if self.changes > CHANGES_MAX {
                let why = "keys do not stay where they are long enough to be looked through";
                return Err(Error::new(ErrorKind::Unavailable, "cache.scan").with_source(why));
            }
            self.layout = Some((layout, self.backend.nodes()));
            self.at = 0;
        }
    }
}
