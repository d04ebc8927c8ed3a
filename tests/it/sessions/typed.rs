//! Data with a type and a version, as two versions of a program share it.

use super::{SECOND, Stage, standing};
use coordinator_core::{Error, ErrorKind, Result};
use coordinator_sessions::{
    Data, Lookup, NewSession, Patch, SessionData, Token, Typed, TypedSessions, Updated,
};
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, time::Duration};

on_every_backend! {
    typed_data_is_shared
    typed_updates_of_many_all_survive
    what_was_written_field_by_field_is_read_as_a_type
    older_data_is_migrated_and_written_with_the_next_update
    what_a_program_does_not_know_stays
    newer_data_is_never_written_by_an_older_program
    data_that_cannot_be_read_is_an_error_and_stays
}

/// What the program before this one keeps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Old {
    article: String,
    visits: u64,
    profile: OldProfile,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    coupon: Option<String>,
    #[serde(default, with = "bytes")]
    seen: Vec<u8>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct OldProfile {
    name: String,
}

impl SessionData for Old {
    const VERSION: u32 = 1;
}

/// As version 2 keeps it: several articles, and a profile with more in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct New {
    cart: Vec<String>,
    visits: u64,
    profile: NewProfile,
    #[serde(default)]
    theme: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct NewProfile {
    name: String,
    #[serde(default)]
    picture: Option<String>,
}

impl SessionData for New {
    const VERSION: u32 = 2;

    fn migrate(from: u32, data: &mut Data) -> Result<()> {
        assert!(from < 2);
        if from == 0 {
            data.set("visits", &0)?;
            data.set("profile", &NewProfile::default())?;
        }
        let article: Option<String> = data.get("article")?;
        data.set("cart", &article.into_iter().collect::<Vec<_>>())?;
        data.remove("article");
        Ok(())
    }
}

/// Bytes that are stored as bytes.
mod bytes {
    use serde::{Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(bytes)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        struct Bytes;
        impl de::Visitor<'_> for Bytes {
            type Value = Vec<u8>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }
        }
        from.deserialize_bytes(Bytes)
    }
}

fn old() -> Old {
    let profile = OldProfile { name: "Ann".to_owned() };
    Old { article: "pear".to_owned(), visits: 7, profile, coupon: None, seen: vec![0, 255] }
}

fn new() -> New {
    let profile = NewProfile { name: "Ann".to_owned(), picture: Some("cat".to_owned()) };
    New { cart: vec!["plum".to_owned()], visits: 7, profile, theme: None }
}

async fn made<T: SessionData>(sessions: &TypedSessions<T>, data: &T) -> Token {
    let made = sessions.create(NewSession::user("ann"), data).await.expect("an answer");
    made.session().expect("it is created").token().expect("a token").clone()
}

async fn found<T: SessionData>(sessions: &TypedSessions<T>, token: &Token) -> Typed<T> {
    sessions.load(token).await.expect("an answer").live().expect("it lives")
}

fn is_done(updated: &Result<Lookup<Updated>>) -> bool {
    matches!(updated, Ok(Lookup::Live(Updated::Done { .. })))
}

async fn typed_data_is_shared(stage: Stage) {
    let (one, other) = (stage.sessions.typed::<Old>(), stage.peer.typed::<Old>());
    let token = made(&one, &old()).await;
    let typed = found(&other, &token).await;
    assert_eq!((typed.data, typed.session.user()), (old(), Some("ann")));
    assert_eq!(typed.session.schema(), 1);
    let updated = other.update(&token, |data| {
        data.coupon = Some("half".to_owned());
        data.visits += 1;
        Ok(())
    });
    assert!(is_done(&updated.await));
    let typed = found(&one, &token).await;
    assert_eq!((typed.data.visits, typed.data.coupon.as_deref()), (8, Some("half")));
    assert_eq!(typed.session.version(), 2);
    // Each field is one of the session, and one that is no more is removed.
    let fields: Vec<_> = typed.session.data().fields().map(str::to_owned).collect();
    assert_eq!(fields, ["article", "coupon", "profile", "seen", "visits"]);
    let updated = other.update(&token, |data| {
        data.coupon = None;
        Ok(())
    });
    assert!(is_done(&updated.await));
    let session = found(&one, &token).await.session;
    assert_eq!(session.data().fields().count(), 4);
    let unchanged = one.update(&token, |_| Ok(())).await.expect("an answer");
    assert_eq!(unchanged, Lookup::Live(Updated::Unchanged));
    let stop = one.update(&token, |_| Err(Error::misuse("test", "no"))).await;
    assert_eq!(stop.expect_err("it fails").step(), "test");
    one.sessions().invalidate(&token, "logout").await.expect("an answer");
    assert!(!other.load(&token).await.expect("an answer").is_live());
    assert!(!other.update(&token, |_| Ok(())).await.expect("an answer").is_live());
    // A map is as good as a struct, and a number is not.
    let maps = stage.sessions.typed::<Words>();
    let words = Words(BTreeMap::from([("a".to_owned(), "b".to_owned())]));
    let token = made(&maps, &words).await;
    assert_eq!(found(&stage.peer.typed::<Words>(), &token).await.data, words);
    let number = stage.sessions.typed::<Number>().create(NewSession::anonymous(), &Number(1)).await;
    assert_eq!(number.expect_err("no fields").kind(), ErrorKind::Misuse);
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Words(BTreeMap<String, String>);

impl SessionData for Words {
    const VERSION: u32 = 1;
}

#[derive(Debug, Serialize, Deserialize)]
struct Number(u64);

impl SessionData for Number {
    const VERSION: u32 = 1;
}

async fn typed_updates_of_many_all_survive(stage: Stage) {
    let (one, other) = (stage.sessions.typed::<Words>(), stage.peer.typed::<Words>());
    let token = made(&one, &Words(BTreeMap::new())).await;
    let writers = (0..30).map(|writer| {
        let (sessions, token) = (if writer % 2 == 0 { &one } else { &other }, &token);
        async move {
            let add = |words: &mut Words| {
                words.0.insert(format!("writer {writer}"), "was here".to_owned());
                let count: u64 = words.0.get("count").map_or(0, |count| count.parse().expect("it"));
                words.0.insert("count".to_owned(), (count + 1).to_string());
                Ok(())
            };
            assert!(is_done(&sessions.update(token, add).await));
        }
    });
    // Whoever met a conflict pauses on this clock.
    let ticks = async {
        loop {
            stage.clock.advance(Duration::from_millis(1));
            tokio::task::yield_now().await;
        }
    };
    futures::future::select(Box::pin(join_all(writers)), Box::pin(ticks)).await;
    let words = found(&one, &token).await.data.0;
    assert_eq!((words.len(), words["count"].as_str()), (31, "30"));
}

async fn what_was_written_field_by_field_is_read_as_a_type(stage: Stage) {
    let typed = stage.sessions.typed::<New>();
    let untyped = NewSession::user("ann").set("article", "fig").expect("a value");
    let token = super::created(&stage.sessions, untyped).await;
    let before = found(&typed, &token).await;
    assert_eq!((before.data.cart, before.session.schema()), (vec!["fig".to_owned()], 0));
    let updated = typed.update(&token, |data| {
        data.visits += 1;
        Ok(())
    });
    assert!(is_done(&updated.await));
    let after = found(&typed, &token).await;
    assert_eq!((after.data.cart, after.session.schema()), (vec!["fig".to_owned()], 2));
    let patch = Patch::new().set("visits", &40).expect("a value").set("cart", &["a"]);
    let patched = stage.peer.patch(&token, patch.expect("a value")).await.expect("an answer");
    assert!(patched.is_live());
    let New { cart, visits, .. } = found(&typed, &token).await.data;
    assert_eq!((cart, visits), (vec!["a".to_owned()], 40));
    let session = stage.peer.load(&token).await.expect("an answer").live().expect("it lives");
    assert_eq!(session.get::<u64>("visits").expect("a value"), Some(40));
}

async fn older_data_is_migrated_and_written_with_the_next_update(stage: Stage) {
    let (before, after) = (stage.sessions.typed::<Old>(), stage.peer.typed::<New>());
    let token = made(&before, &old()).await;
    for _ in 0..2 {
        // Looking writes nothing: the older program goes on with it.
        let typed = found(&after, &token).await;
        assert_eq!((typed.data.cart, typed.data.visits), (vec!["pear".to_owned()], 7));
        assert_eq!((typed.session.schema(), typed.session.version()), (1, 1));
        assert_eq!(found(&before, &token).await.data, old());
    }
    let updated = after.update(&token, |data| {
        data.cart.push("fig".to_owned());
        Ok(())
    });
    assert!(is_done(&updated.await));
    let typed = found(&after, &token).await;
    assert_eq!(typed.data.cart, ["pear", "fig"]);
    assert_eq!((typed.session.schema(), typed.session.version()), (2, 2), "in one step");
    assert_eq!(typed.session.data().get::<String>("article").expect("no value"), None);
    // A migration that fails writes nothing.
    let wrong = Patch::new().set("article", &7).expect("a value");
    let token = made(&before, &old()).await;
    assert!(stage.sessions.patch(&token, wrong).await.expect("an answer").is_live());
    for error in [
        after.load(&token).await.expect_err("a number"),
        after.update(&token, |_| Ok(())).await.expect_err("a number"),
    ] {
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }
    let session = stage.peer.peek(&token).await.expect("an answer").live().expect("it lives");
    assert_eq!((session.version(), session.schema()), (2, 1));
}

/// What a program of the same version keeps that was rolled out a little later.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Later {
    visits: u64,
    profile: NewProfile,
    #[serde(default)]
    flags: Vec<String>,
}

impl SessionData for Later {
    const VERSION: u32 = 1;
}

async fn what_a_program_does_not_know_stays(stage: Stage) {
    let (before, after) = (stage.sessions.typed::<Old>(), stage.peer.typed::<Later>());
    let token = made(&before, &old()).await;
    let updated = after.update(&token, |data| {
        data.profile.picture = Some("cat".to_owned());
        data.flags.push("beta".to_owned());
        Ok(())
    });
    assert!(is_done(&updated.await));
    let updated = before.update(&token, |data| {
        data.visits += 1;
        Ok(())
    });
    assert!(is_done(&updated.await));
    let data = found(&after, &token).await.data;
    let profile = NewProfile { name: "Ann".to_owned(), picture: Some("cat".to_owned()) };
    assert_eq!(data, Later { visits: 8, profile, flags: vec!["beta".to_owned()] });
    assert_eq!(found(&before, &token).await.data, Old { visits: 8, ..old() });
}

async fn newer_data_is_never_written_by_an_older_program(stage: Stage) {
    let (before, after) = (stage.sessions.typed::<Old>(), stage.peer.typed::<New>());
    let token = made(&after, &new()).await;
    let typed = found(&after, &token).await;
    // It lacks what the older one needs: an error, and not a session without data.
    let error = before.load(&token).await.expect_err("no article");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let refused = before.update(&token, |_| panic!("nothing to change")).await;
    assert_eq!(refused.expect("an answer"), Lookup::Live(Updated::Newer { schema: 2 }));
    // Where it can be read it is, and still not written.
    let set = Patch::new().set("article", "pear").expect("a value").set("seen", &()).expect("one");
    assert!(stage.peer.patch(&token, set.remove("seen")).await.expect("an answer").is_live());
    assert_eq!(found(&before, &token).await.data.visits, 7);
    let refused = before.update(&token, |_| panic!("nothing to change")).await;
    assert_eq!(refused.expect("an answer"), Lookup::Live(Updated::Newer { schema: 2 }));
    let now = found(&after, &token).await;
    assert_eq!((now.data, now.session.schema()), (typed.data, 2));
    assert_eq!(now.session.version(), 2, "by the patch alone");
    // While both write: whoever is older stops as soon as the newer one has written.
    let token = made(&before, &old()).await;
    let mut raised = false;
    for round in 0..20 {
        let updated = before.update(&token, |data| {
            data.visits += 1;
            Ok(())
        });
        let updated = updated.await;
        assert_eq!(is_done(&updated), !raised, "round {round}: {updated:?}");
        if round == 10 {
            let theme = after.update(&token, |data| {
                data.theme = Some("dark".to_owned());
                Ok(())
            });
            raised = is_done(&theme.await);
        }
    }
    assert!(raised);
    let data = found(&after, &token).await.data;
    assert_eq!((data.visits, data.theme.as_deref()), (18, Some("dark")));
}

async fn data_that_cannot_be_read_is_an_error_and_stays(stage: Stage) {
    let typed = stage.sessions.typed::<Old>();
    let token = made(&typed, &old()).await;
    let wrong = Patch::new().set("visits", "many").expect("a value");
    assert!(stage.peer.patch(&token, wrong).await.expect("an answer").is_live());
    for error in [
        typed.load(&token).await.expect_err("text"),
        typed.peek(&token).await.expect_err("text"),
        typed.update(&token, |_| panic!("nothing to change")).await.expect_err("text"),
    ] {
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.chain().contains("version 1"), "{}", error.chain());
    }
    stage.elapse(SECOND).await;
    assert_eq!(standing(&stage.peer, &token).await, Lookup::Live(()));
    let session = stage.peer.load(&token).await.expect("an answer").live().expect("it lives");
    assert_eq!(session.get::<String>("visits").expect("a value").as_deref(), Some("many"));
    assert_eq!(session.get::<String>("article").expect("a value").as_deref(), Some("pear"));
}
