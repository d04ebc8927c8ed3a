//! The live table on a terminal: drawn over itself while the run goes on.

use super::{parent::Parent, report};
use coordinator::clock::Clock;
use std::{
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

/// How often it is drawn.
const PERIOD: Duration = Duration::from_millis(200);

/// Draws until it is dropped; draws nothing where nobody looks. What was drawn is wiped out then.
///
/// # Cancel safety
/// Cancel safe.
pub(crate) async fn draw(parent: &Parent, clock: &dyn Clock) {
    if !io::stderr().is_terminal() {
        return std::future::pending().await;
    }
    let mut screen = Screen { lines: 0 };
    loop {
        let (handled, requests) = parent.progress();
        let table = report::table(&parent.rows());
        screen.show(&format!("{table}\n{handled} of {requests} requests\n"));
        clock.sleep(PERIOD).await;
    }
}

struct Screen {
    /// How many lines to go up.
    lines: usize,
}

impl Screen {
    fn show(&mut self, text: &str) {
        let mut stderr = io::stderr().lock();
        let up = match self.lines {
            0 => String::new(),
            lines => format!("\x1b[{lines}F\x1b[J"),
        };
        // A terminal that has gone has nobody to miss it.
        let _ = write!(stderr, "{up}{text}");
        let _ = stderr.flush();
        self.lines = text.lines().count();
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.show("");
    }
}
