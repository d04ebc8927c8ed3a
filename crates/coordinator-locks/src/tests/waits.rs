//! What every backend promises of the registry of who waits for what.

use super::{
    contract::{Case, Stage, Verdict, cases, ensure},
    name,
};
use crate::{Token, backend::Awaited};
use std::time::Duration;

cases! {
    a_wait_is_known_for_its_lease_and_as_long_as_it_is_said_again
    a_wait_that_is_over_is_known_no_more
    each_owner_has_its_own_waits
}

const LEASE: Duration = Duration::from_secs(3);

fn wait(text: &str, since_us: u64) -> Awaited {
    Awaited { token: Token::random(), name: name(text), since_us }
}

impl Stage {
    async fn waits(&self, owner: &str, wait: &Awaited) -> Verdict {
        let said = self.backend.wait_for(&name(owner), wait, LEASE).await;
        said.map_err(|error| error.chain())
    }

    async fn waits_no_more(&self, owner: &str, wait: &Awaited) -> Verdict {
        let said = self.backend.wait_no_more(&name(owner), &wait.token).await;
        said.map_err(|error| error.chain())
    }

    /// Whether it is these that an owner waits for, and no others.
    async fn knows(&self, owner: &str, expected: &[&Awaited]) -> Verdict {
        let known = self.backend.waits_of(&name(owner)).await.map_err(|error| error.chain())?;
        let all = expected.iter().all(|wait| known.contains(wait));
        ensure!(all && known.len() == expected.len(), "{known:?} and not {expected:?}");
        Ok(())
    }
}

async fn a_wait_is_known_for_its_lease_and_as_long_as_it_is_said_again(stage: Stage) -> Verdict {
    let (one, other) = (wait("a", 1_800_000_000_000_001), wait("b:{c}*", 7));
    stage.waits("o", &one).await?;
    stage.waits("o", &other).await?;
    stage.waits("o", &other).await?;
    stage.knows("o", &[&one, &other]).await?;
    stage.elapse(LEASE / 2).await;
    stage.waits("o", &one).await?;
    stage.knows("o", &[&one, &other]).await?;
    stage.elapse(LEASE * 2 / 3).await;
    stage.knows("o", &[&one]).await?;
    stage.elapse(LEASE / 2).await;
    stage.knows("o", &[]).await
}

async fn a_wait_that_is_over_is_known_no_more(stage: Stage) -> Verdict {
    let (one, other) = (wait("a", 1), wait("a", 2));
    stage.waits("o", &one).await?;
    stage.waits("o", &other).await?;
    for _ in 0..2 {
        stage.waits_no_more("o", &one).await?;
        stage.knows("o", &[&other]).await?;
    }
    stage.waits_no_more("o", &other).await?;
    stage.knows("o", &[]).await
}

async fn each_owner_has_its_own_waits(stage: Stage) -> Verdict {
    let (one, other) = (wait("a", 1), wait("a", 2));
    stage.waits("o", &one).await?;
    stage.waits("p", &other).await?;
    stage.waits_no_more("p", &one).await?;
    stage.knows("o", &[&one]).await?;
    stage.knows("p", &[&other]).await?;
    stage.knows("q", &[]).await
}
