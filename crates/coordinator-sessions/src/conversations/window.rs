//! What leaves a window: the oldest, until the rest fits; a call and what answers it together.
//!
//! Models refuse, for ever, a conversation in which an answer stands without its call or a call
//! without its answers. So a call leaves with all that answers it, what stands between included,
//! and an answer whose call has left does not come in.

use super::backend::Link;

/// What of a message decides.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Linked<'a> {
    pub(crate) tokens: u32,
    pub(crate) calls: &'a [Link],
    pub(crate) answers: Option<Link>,
}

/// Which of `messages` leave, oldest first; the first `held` were in the window before.
pub(crate) fn leaving(
    messages: &[Linked<'_>],
    held: usize,
    most: usize,
    budget: Option<u64>,
) -> Vec<bool> {
    let mut leaves = vec![false; messages.len()];
    // Where each one's call is: the nearest before it with that link.
    let mut callers = Vec::with_capacity(messages.len());
    for (at, message) in messages.iter().enumerate() {
        let caller = message.answers.map(|link| {
            (0..at).rev().find(|&from| !leaves[from] && messages[from].calls.contains(&link))
        });
        if at >= held && caller == Some(None) {
            leaves[at] = true;
        }
        callers.push(caller.flatten());
    }
    let staying: Vec<usize> = (0..messages.len()).filter(|at| !leaves[*at]).collect();
    let mut tokens: u64 = staying.iter().map(|at| u64::from(messages[*at].tokens)).sum();
    // Up to which one more must leave.
    let mut reach = None;
    for (passed, &at) in staying.iter().enumerate() {
        let fits = staying.len() - passed <= most && budget.is_none_or(|budget| tokens <= budget);
        if fits && reach.is_none_or(|reach| at > reach) {
            break;
        }
        leaves[at] = true;
        tokens -= u64::from(messages[at].tokens);
        let last = callers.iter().rposition(|caller| *caller == Some(at));
        reach = reach.max(last);
    }
    leaves
}
