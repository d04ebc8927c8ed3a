//! What is left in indexes of sessions that are gone, which on a server expires by itself.

use super::{IDLE, THROTTLE, made, names, place, stage::Stage};
use crate::{Filter, NewSession, Sessions, Store, backend::Index};
use coordinator_core::clock::ManualClock;
use std::{sync::Arc, time::Duration};

const DAY: Duration = Duration::from_hours(24);

fn ms(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).expect("forwards"))
}

#[tokio::test]
async fn what_is_listed_where_no_session_is_is_found() {
    let stage = Stage::embedded();
    let sessions = Sessions::over(stage.backend.clone());
    made(&*stage.backend, place(0, 1), 1, names("ann", "")).await;
    stage.loses(place(0, 1)).await;
    let crew = Index::Crew("night".to_owned());
    stage.lists(0, &Index::All, &place(0, 1).id.encode(), None).await;
    stage.lists(0, &crew, &place(0, 2).id.encode(), Some(5)).await;
    assert_eq!(sessions.verify().await.expect("verified").orphans, 2);
    assert_eq!(sessions.repair().await.expect("verified").orphans, 2);
    assert_eq!(sessions.verify().await.expect("verified").orphans, 0);
    assert!(stage.backend.indexes(0).await.expect("an answer").is_empty());
}

#[tokio::test]
async fn who_is_not_reaped_for_days_leaves_nothing_behind() {
    let mut stage = Stage::embedded();
    let sessions = Sessions::over(stage.backend.clone());
    for number in 0..3 {
        made(&*stage.backend, place(0, number), 1, names("ann", "acme")).await;
    }
    stage.breaks(place(0, 0)).await;
    stage.elapse(ms(IDLE + THROTTLE) + 3 * DAY).await;
    // Whatever is written takes along what has ended.
    for number in 3..6 {
        made(&*stage.backend, place(1, number), 1, names("bob", "")).await;
    }
    assert_eq!(sessions.reap().await.expect("reaped"), 3);
    assert_eq!(sessions.repair().await.expect("verified").orphans, 2, "of the broken one");
    assert!(stage.backend.indexes(0).await.expect("an answer").is_empty());
    let told = sessions.history(DAY).await.expect("it is read");
    let told = told.iter().filter(|one| one.user.as_deref() == Some("ann"));
    assert_eq!(told.filter(|one| one.reason.is_none()).count(), 2);
}

#[tokio::test]
async fn a_file_is_reaped_at_its_first_use() {
    let folder = tempfile::tempdir().expect("a folder");
    let clock = ManualClock::new();
    let open = || {
        let store = Store::file(folder.path().join("sessions.redb")).expect("a file");
        Sessions::embedded_in(&store.with_clock(Arc::new(clock.clone())))
    };
    let overdue = async |sessions: &Sessions| sessions.stats().await.expect("figures").overdue;
    let new = NewSession::user("ann").company("acme");
    let first = open().with_reaping(None);
    let session = first.create(new.clone()).await.expect("an answer").session().expect("created");
    drop(first);
    clock.advance(3 * DAY);
    for used in ["count", "list", "load", "create"] {
        let sessions = open().with_reaping(None);
        sessions.create(new.clone()).await.expect("an answer").session().expect("created");
        clock.advance(3 * DAY);
        assert!(overdue(&sessions).await > 0, "INVALID: nothing to reap");
        drop(sessions);
        // No time passes: a run of a command is as short.
        let sessions = open();
        match used {
            "count" => drop(sessions.count(&Filter::all()).await.expect("a count")),
            "list" => {
                let page = crate::Page::first(1);
                drop(sessions.list(&Filter::user("ann"), &page).await.expect("a list"));
            }
            "load" => drop(sessions.load(session.token().expect("a token")).await),
            _ => drop(sessions.create(NewSession::user("bob")).await.expect("an answer")),
        }
        assert_eq!(overdue(&sessions).await, 0, "{used}");
        let found = sessions.verify().await.expect("verified");
        assert_eq!((found.orphans, found.missing), (0, 0), "{used}");
    }
}
