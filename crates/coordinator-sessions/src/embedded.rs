//! The adapter in process: the executable specification of the scripts, over the store.

use crate::store::Store;

/// Sessions, documents and conversations over a store; each port is implemented beside its noun.
#[derive(Debug, Clone)]
pub(crate) struct Embedded {
    pub(crate) store: Store,
}
