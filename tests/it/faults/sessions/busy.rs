//! Everything that sessions can be asked for, once each at least.

use super::{PATIENCE, created, live};
use coordinator_core::Result;
use coordinator_harness::eventually;
use coordinator_sessions::{
    CapPolicy, Filter, Lookup, NewSession, Page, Patch, Rotation, Sessions, Token,
};
use std::time::Duration;

const MINUTE: Duration = Duration::from_mins(1);

/// Does all of it; every token that was given out, and some of the sessions live on.
pub(super) async fn day(sessions: &Sessions, peer: &Sessions) -> Vec<Token> {
    let mut events = peer.events().await.expect("they are heard");
    let mut tokens = Vec::new();
    for number in 0..4 {
        let user = format!("user {number}");
        tokens.extend(visit(sessions, peer, &user).await.expect("a visit"));
    }
    tokens.extend(crowd(sessions).await.expect("a crowd"));
    look(peer).await.expect("an operator");
    // One that expires, is told of, and one whose token was stolen.
    let short = NewSession::user("short").with_idle_timeout(Duration::from_millis(1));
    let quick = sessions.clone().with_touch_throttle(Duration::ZERO);
    tokens.push(created(&quick, short).await);
    let old = created(sessions, NewSession::user("stolen")).await;
    let hasty = sessions.clone().with_rotation_grace(Duration::from_millis(1));
    let rotated = hasty.rotate(&old, Rotation::new()).await.expect("an answer");
    tokens.push(rotated.live().expect("it lives").token().expect("a token"));
    eventually(PATIENCE, "the replay is found", async || {
        matches!(peer.load(&old).await.expect("an answer"), Lookup::Revoked { .. })
    })
    .await;
    tokens.push(old);
    let mut reaped = 0;
    eventually(PATIENCE, "it is reaped", async || {
        reaped += peer.reap().await.expect("reaped");
        reaped > 0
    })
    .await;
    let heard = tokio::time::timeout(PATIENCE, events.next()).await.expect("it is told");
    assert!(heard.at > Duration::ZERO && heard.version > 0);
    tokens
}

/// What one user does in a day.
async fn visit(sessions: &Sessions, peer: &Sessions, user: &str) -> Result<Vec<Token>> {
    let new = NewSession::anonymous().set("cart", &["pear"])?.metadata(&("agent", 7))?;
    let first = created(sessions, new).await;
    live(peer, &first).await;
    let login = Rotation::new().user(user).company("acme").crew("night");
    let rotated = sessions.rotate(&first, login).await?;
    let mut tokens = vec![first, rotated.live().expect("it lives").token().expect("a token")];
    for _ in 0..3 {
        let token = tokens.last().expect("one").clone();
        sessions.patch(&token, Patch::new().set("draft", "text")?.remove("cart")).await?;
        peer.update(&token, |data| {
            data.set("visits", &(data.get::<u64>("visits")?.unwrap_or(0) + 1))
        })
        .await?;
        sessions.extend(&token, Some(30 * MINUTE), Some(600 * MINUTE)).await?;
        live(peer, &token).await;
        let rotated = peer.rotate(&token, Rotation::new()).await?;
        tokens.push(rotated.live().expect("it lives").token().expect("a token"));
        // One that was on its way.
        live(sessions, &token).await;
    }
    let last = tokens.last().expect("one").clone();
    let shown = peer.rotate(&last, Rotation::new().user("an operator")).await?;
    let shown = shown.live().expect("it lives").token().expect("a token");
    live(sessions, &last).await;
    let nobody = sessions.rotate(&shown, Rotation::new().anonymous()).await?;
    let nobody = nobody.live().expect("it lives").token().expect("a token");
    sessions.invalidate(&nobody, "logout").await?;
    tokens.extend([shown, nobody]);
    let kept = created(sessions, NewSession::user(user).company("acme")).await;
    live(peer, &kept).await;
    let lost = sessions.create(NewSession::user(user)).await?.session()?;
    assert!(peer.revoke(user, lost.reference(), "lost").await?);
    tokens.push(lost.token().expect("a token").clone());
    tokens.push(kept);
    Ok(tokens)
}

/// Whole revocations, and users with too many sessions.
async fn crowd(sessions: &Sessions) -> Result<Vec<Token>> {
    let mut tokens = Vec::new();
    for policy in [CapPolicy::Reject, CapPolicy::EvictOldest, CapPolicy::EvictLeastRecent] {
        let capped = sessions.clone().with_cap(2, policy);
        for _ in 0..4 {
            if let Ok(session) = capped.create(NewSession::user("many")).await?.session() {
                tokens.push(session.token().expect("a token").clone());
            }
        }
    }
    assert_eq!(sessions.revoke_user("many", "password changed").await?, 2);
    for number in 0..3 {
        let new = NewSession::user(&format!("employee {number}")).company("closed");
        tokens.push(created(sessions, new).await);
    }
    assert_eq!(sessions.revoke_company("closed", "closed down").await?, 3);
    Ok(tokens)
}

/// What an operator looks at.
async fn look(peer: &Sessions) -> Result<()> {
    for filter in
        [Filter::all(), Filter::user("user 1"), Filter::company("acme"), Filter::crew("night")]
    {
        let mut page = Page::first(2);
        while let Some(next) = peer.list(&filter, &page).await?.next {
            page = page.after(next);
        }
        peer.count(&filter).await?;
    }
    peer.stats().await?;
    peer.verify().await?;
    peer.repair().await?;
    assert!(peer.history(Duration::from_hours(1)).await?.len() > 20);
    Ok(())
}
