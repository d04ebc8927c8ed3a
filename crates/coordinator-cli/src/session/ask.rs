//! Sessions one by one, in lists and in numbers.

use super::{
    CreateArgs, ListArgs, RevokeArgs, WhoseArgs,
    view::{self, SessionView},
};
use crate::{
    failure::{Failure, exit},
    kept::{millis, unknown, unsure},
    output,
};
use coordinator::sessions::{Created, Filter, NewSession, Page, Sessions, Token};
use serde_json::{Value, json};

const CREATED_PERHAPS: &str =
    "it may have been created; nobody has its token, and it expires by itself";
const REVOKED_PERHAPS: &str = "they may have been ended; repeat the call: that is safe";

/// Creates a session and tells its token.
pub(super) async fn create(
    args: &CreateArgs,
    sessions: &Sessions,
    json: bool,
) -> Result<u8, Failure> {
    let mut new = NewSession::user(&args.user);
    if let Some(company) = &args.company {
        new = new.company(company);
    }
    if let Some(crew) = &args.crew {
        new = new.crew(crew);
    }
    if let Some(ttl) = args.ttl {
        new = new.with_idle_timeout(ttl);
    }
    let session = match sessions.create(new).await.map_err(|e| unsure(e, CREATED_PERHAPS))? {
        Created::Session(session) => session,
        Created::Full { live } => {
            if json {
                output::json(&json!({ "state": "refused", "count": live }))?;
            } else {
                output::note(format_args!("the user has {live} sessions, as many as may be"));
            }
            return Ok(exit::REFUSED);
        }
        _ => return Err(unknown()),
    };
    let token = session.token().ok_or_else(unknown)?;
    let view = SessionView::from(&*session);
    let answer = if json {
        let mut document = json!(view);
        document["token"] = Value::String(token.reveal());
        output::json_text(&document)? + "\n"
    } else {
        // Lines that a shell can `eval`.
        let (reference, ttl_ms) = (session.reference().as_str(), millis(session.expires_in()));
        format!("token={}\nref={reference}\nttl_ms={ttl_ms}\n", token.reveal())
    };
    if let Err(error) = output::write(&answer) {
        // Nobody has the token: nobody could end it.
        let _ = sessions.invalidate(token, "unread").await?;
        return Err(output::unwritten(&error));
    }
    Ok(exit::DONE)
}

/// Says what is known of a session.
pub(super) async fn show(token: &Token, sessions: &Sessions, json: bool) -> Result<u8, Failure> {
    let found = sessions.peek(token).await?;
    let view = SessionView::of(&found);
    if json {
        output::json(&view)?;
    } else if found.is_live() {
        output::line(&view::table([view]))?;
    } else {
        let why = view::reason(&found).map(|reason| format!(": {reason}")).unwrap_or_default();
        output::note(format_args!("the session is {}{why}", view.state));
    }
    Ok(if found.is_live() { exit::DONE } else { exit::REFUSED })
}

/// Lists sessions, a page of them.
pub(super) async fn list(args: &ListArgs, sessions: &Sessions, json: bool) -> Result<u8, Failure> {
    let mut page = Page::first(args.count.into());
    if let Some(cursor) = &args.cursor {
        page = page.after(cursor.clone());
    }
    let found = sessions.list(&args.filter.read(), &page).await?;
    let views = found.sessions.iter().map(SessionView::from);
    if json {
        let views: Vec<_> = views.collect();
        output::json(&json!({ "sessions": views, "next": found.next }))?;
    } else {
        output::line(&view::table(views))?;
        if let Some(next) = found.next {
            output::note(format_args!("there are more, behind --cursor {next}"));
        }
    }
    Ok(exit::DONE)
}

/// Ends one session.
pub(super) async fn revoke_one(
    token: &Token,
    reason: &str,
    sessions: &Sessions,
    json: bool,
) -> Result<u8, Failure> {
    let found = sessions.invalidate(token, reason).await.map_err(|e| unsure(e, REVOKED_PERHAPS))?;
    let lived = found.is_live();
    let state = if lived { "revoked" } else { view::state(&found) };
    if json {
        let reason = if lived { Some(reason.to_owned()) } else { view::reason(&found) };
        let count = u64::from(lived);
        output::json(&json!({ "count": count, "state": state, "reason": reason }))?;
    } else if lived {
        output::line("revoked")?;
    } else {
        output::note(format_args!("the session was {state} before"));
    }
    Ok(if lived { exit::DONE } else { exit::REFUSED })
}

/// Ends all sessions of a user or of a company.
pub(super) async fn revoke(
    args: &RevokeArgs,
    sessions: &Sessions,
    json: bool,
) -> Result<u8, Failure> {
    let ended = match &args.whose {
        WhoseArgs { user: Some(user), .. } => sessions.revoke_user(user, &args.reason).await,
        WhoseArgs { company: Some(company), .. } => {
            sessions.revoke_company(company, &args.reason).await
        }
        WhoseArgs { .. } => return Err(Failure::usage("say whose sessions (see --help)")),
    };
    tell(ended.map_err(|e| unsure(e, REVOKED_PERHAPS))?, json)
}

/// Counts sessions.
pub(super) async fn count(filter: &Filter, sessions: &Sessions, json: bool) -> Result<u8, Failure> {
    tell(sessions.count(filter).await?, json)
}

fn tell(count: u64, json: bool) -> Result<u8, Failure> {
    if json {
        output::json(&json!({ "count": count }))?;
    } else {
        output::line(&count.to_string())?;
    }
    Ok(exit::DONE)
}

/// Compares indexes and sessions.
pub(super) async fn verify(repair: bool, sessions: &Sessions, json: bool) -> Result<u8, Failure> {
    let found = if repair { sessions.repair().await? } else { sessions.verify().await? };
    if repair {
        // Those that vanished leave the list of all with this.
        sessions.reap().await?;
    }
    let wrong = found.orphans + found.missing;
    if json {
        output::json(&json!({
            "sessions": found.sessions,
            "orphans": found.orphans,
            "missing": found.missing,
            "repaired": repair,
        }))?;
    } else {
        let numbers = [found.sessions, found.orphans, found.missing];
        let row = numbers.iter().map(ToString::to_string).collect();
        output::line(&output::table(&["SESSIONS", "ORPHANS", "MISSING"], [row]))?;
    }
    Ok(if wrong == 0 || repair { exit::DONE } else { exit::REFUSED })
}
