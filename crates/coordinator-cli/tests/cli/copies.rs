//! `session export`, `restore` and `migrate`: what was there is there, and what was ended stays so.

use crate::support::{Done, Site, binary, done, fed, keys};
use serde_json::{Value, json};
use std::{os::unix::fs::PermissionsExt as _, path::Path};

impl Site {
    async fn sessions(&self, args: &[&str]) -> Value {
        self.run(&[&["--json", "session"], args].concat()).await.exits(0).json()
    }

    /// A session of each of so many users; their tokens.
    async fn filled(&self, users: usize) -> Vec<String> {
        let mut tokens = Vec::new();
        for user in 0..users {
            let user = format!("u{user}");
            let created = self.sessions(&["create", "--user", &user, "--company", "acme"]).await;
            tokens.push(created["token"].as_str().expect("a token").to_owned());
        }
        tokens
    }

    async fn lives(&self, token: &str) -> bool {
        let shown = self.run(&["--json", "session", "show", token]).await;
        shown.json()["state"] == "live"
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

#[tokio::test]
async fn what_was_exported_comes_back_with_its_tokens() {
    let (old, new) = tokio::join!(Site::start(), Site::start());
    let tokens = old.filled(5).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("sessions.ndjson");
    let file = text(&file);
    assert_eq!(old.sessions(&["export", file]).await, json!({ "exported": 5 }));
    let written = std::fs::read_to_string(file).expect("a file");
    assert_eq!(written.lines().count(), 7);
    let mode = std::fs::metadata(file).expect("a file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    for token in &tokens {
        let (_, secret) = token.rsplit_once('.').expect("its parts");
        assert!(!written.contains(secret), "a token is in the file");
    }
    // What is ended here stays so.
    let restored = new.sessions(&["restore", file]).await;
    let expected = ["ended", "expired", "restored", "revoked", "skipped"];
    assert!(keys(&restored).into_iter().eq(expected), "{restored}");
    assert_eq!(restored["restored"], 5, "{restored}");
    for token in &tokens {
        assert!(new.lives(token).await);
    }
    new.sessions(&["revoke", &tokens[0]]).await;
    for mode in ["skip", "newer", "overwrite"] {
        let again = new.sessions(&["restore", file, "--mode", mode]).await;
        assert_eq!(again["ended"], 1, "{mode}: {again}");
        assert!(!new.lives(&tokens[0]).await);
    }
    // By pipe, too.
    let piped = old.run(&["session", "export", "-"]).await.exits(0).complains("5 sessions");
    assert_eq!(piped.stdout.lines().count(), 7);
    let restored = fed(new.command(&["--json", "session", "restore", "-"]), &piped.stdout).await;
    assert_eq!(restored.exits(0).json()["ended"], 1);
}

#[tokio::test]
async fn a_file_that_was_cut_is_noticed_and_one_that_cannot_be_written_leaves_none() {
    let site = Site::start().await;
    site.filled(3).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("sessions.ndjson");
    site.sessions(&["export", text(&file)]).await;
    let whole = std::fs::read_to_string(&file).expect("a file");
    let lines: Vec<_> = whole.lines().collect();
    std::fs::write(&file, lines[..3].join("\n") + "\n").expect("a file");
    let other = Site::start().await;
    let cut = other.run(&["session", "restore", text(&file)]).await.exits(3);
    cut.complains("line 4");
    assert_eq!(other.sessions(&["count"]).await["count"], 2);
    let nowhere = folder.path().join("no/folder/x");
    for verb in ["export", "restore"] {
        site.run(&["session", verb, text(&nowhere)]).await.exits(2).complains("no/folder/x");
    }
    let names: Vec<_> = std::fs::read_dir(folder.path()).expect("a folder").collect();
    assert_eq!(names.len(), 1, "{names:?}");
}

async fn from(site: &Site, source: &str) -> Done {
    site.run(&["--json", "session", "migrate", "--from", source]).await
}

#[tokio::test]
async fn sessions_come_along_from_a_server_a_file_and_an_export() {
    let (old, new) = tokio::join!(Site::start(), Site::start());
    let tokens = old.filled(4).await;
    let call = ["--json", "session", "migrate", "--from", &old.server.url()];
    let prefix = ["--from-prefix", &old.prefix];
    let nothing = new.run(&call).await.exits(0).json();
    assert_eq!(nothing["restored"], 0, "another prefix: {nothing}");
    let all = new.run(&[&call[..], &prefix].concat()).await.exits(0).json();
    assert_eq!(all["restored"], 4, "{all}");
    let again = new.run(&[&call[..], &prefix].concat()).await.exits(0).json();
    assert_eq!((&again["restored"], &again["skipped"]), (&0.into(), &4.into()), "{again}");
    for token in &tokens {
        assert!(new.lives(token).await && old.lives(token).await);
    }
    let folder = tempfile::tempdir().expect("a folder");
    let kept = folder.path().join("state.redb");
    let url = format!("embedded://{}", kept.display());
    let create = ["--url", &url, "--json", "session", "create", "--user", "ann"];
    let mut tokens = Vec::new();
    for _ in 0..2 {
        let created = done(binary(&create)).await.exits(0).json();
        tokens.push(created["token"].as_str().expect("a token").to_owned());
    }
    for (source, restored) in [(text(&kept), 2), (&*url, 0)] {
        let sum = from(&new, source).await.exits(0).json();
        assert_eq!(sum["restored"], restored, "{source}: {sum}");
    }
    assert!(new.lives(&tokens[0]).await && new.lives(&tokens[1]).await);
    let export = folder.path().join("sessions.ndjson");
    old.sessions(&["export", text(&export)]).await;
    let sum = from(&new, text(&export)).await.exits(0).json();
    assert_eq!(sum["skipped"], 4, "{sum}");
    // What is not there is not created.
    let absent = folder.path().join("absent.redb");
    for source in [text(&absent), &format!("embedded://{}", absent.display()), "embedded://"] {
        from(&new, source).await.exits(2).complains("");
    }
    assert!(!absent.exists());
    from(&new, "redis://127.0.0.1:1").await.exits(3).complains("");
    let bad = from(&new, "redis://u:s3cret@h?colour=red").await.exits(2);
    assert!(!bad.complains("").stderr.contains("s3cret"));
}

#[tokio::test]
async fn another_programs_sessions_come_along() {
    let site = Site::start().await;
    for (key, value) in
        [("sess:a", r#"{"user":"ann","cart":[1]}"#), ("sess:b", r#"{"cart":[]}"#), ("sess:c", "?")]
    {
        let set = site.server.command(&["SET", key, value, "EX", "600"]).await;
        set.expect("SET is answered");
    }
    let url = site.server.url();
    let call = ["migrate", "--from", &url, "--layout", "sess", "--user-field", "user"];
    let sum = site.sessions(&call).await;
    let expected = ["expired", "restored", "revoked", "skipped", "unreadable"];
    assert!(keys(&sum).into_iter().eq(expected), "{sum}");
    assert_eq!((&sum["restored"], &sum["unreadable"]), (&2.into(), &1.into()), "{sum}");
    assert_eq!(site.sessions(&["count", "--user", "ann"]).await["count"], 1);
    let again = site.sessions(&call).await;
    assert_eq!((&again["restored"], &again["skipped"]), (&0.into(), &2.into()), "{again}");
    let call = ["session", "migrate", "--from", "/dev/null", "--layout", "sess"];
    site.run(&call).await.exits(2).complains("URL");
}
