//! `lock graph`: who waits for whom, as lines, as JSON or in the DOT language.

use super::view::{HolderView, WaiterView, age};
use crate::{
    failure::{Failure, exit},
    output::{self, plain},
};
use coordinator::locks::{Edge, Locks};
use serde_json::json;

/// All who wait.
pub(super) async fn show(locks: &Locks, dot: bool, json: bool) -> Result<u8, Failure> {
    let edges = locks.graph().await?;
    if json {
        let edges = edges.iter().map(|edge| {
            json!({
                "lock": edge.lock,
                "waiter": WaiterView::from(&edge.waiter),
                "holder": HolderView::from(&edge.holder),
                "in_cycle": edge.in_cycle,
            })
        });
        output::json(&edges.collect::<Vec<_>>())?;
    } else if dot {
        output::line(&in_dot(&edges))?;
    } else if edges.is_empty() {
        output::note("nobody waits");
    } else {
        let lines: Vec<_> = edges.iter().map(in_words).collect();
        output::line(&lines.join("\n"))?;
    }
    Ok(exit::DONE)
}

fn in_words(edge: &Edge) -> String {
    let named = |owner: Option<&str>, host: &str, pid: u32| match owner {
        Some(owner) => format!("{} ({} pid {pid})", plain(owner), plain(host)),
        None => format!("{} pid {pid}", plain(host)),
    };
    let (waiter, holder) = (&edge.waiter, &edge.holder);
    format!(
        "{} waits {} for {}, held by {}{}",
        named(waiter.owner.as_deref(), &waiter.host, waiter.pid),
        age(waiter.waited),
        plain(&edge.lock),
        named(holder.owner.as_deref(), &holder.host, holder.pid),
        if edge.in_cycle { " (deadlock)" } else { "" }
    )
}

/// An owner is one node, in however many processes it is; without one, a process is.
fn in_dot(edges: &[Edge]) -> String {
    let node = |owner: Option<&str>, host: &str, pid: u32| match owner {
        Some(owner) => quoted(owner),
        None => quoted(&format!("{host} pid {pid}")),
    };
    let mut text = "digraph waits {\n".to_owned();
    for edge in edges {
        let (waiter, holder) = (&edge.waiter, &edge.holder);
        let from = node(waiter.owner.as_deref(), &waiter.host, waiter.pid);
        let to = node(holder.owner.as_deref(), &holder.host, holder.pid);
        let label = quoted(&format!("{} ({})", edge.lock, age(waiter.waited)));
        let color = if edge.in_cycle { ", color=red" } else { "" };
        text.extend(["  ", &*from, " -> ", &*to, " [label=", &*label, color, "];\n"]);
    }
    text.push('}');
    text
}

/// A string of the DOT language that shows the text as it is, control characters escaped.
fn quoted(text: &str) -> String {
    format!("\"{}\"", plain(text).replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_ends_its_string() {
        assert_eq!(quoted(r#"a"]; b \"#), r#""a\"]; b \\""#);
        assert_eq!(quoted("a\nb"), r#""a\\nb""#);
    }
}
