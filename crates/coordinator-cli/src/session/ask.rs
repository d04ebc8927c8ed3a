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
use coordinator::sessions::{Created, Filter, NewSession, Page, Reference, Sessions, Token};
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
    // Of the owner and not of the session alone: how late it may end goes by that.
    let sessions = match args.ttl {
        Some(ttl) => sessions.clone().with_idle_timeout(ttl),
        None => sessions.clone(),
    };
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
        if found.unreadable > 0 {
            output::note(format_args!("{} more cannot be read", found.unreadable));
        }
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

/// Ends the one session of a user that a list calls so.
async fn revoke_called(
    user: &str,
    reference: &str,
    reason: &str,
    sessions: &Sessions,
    json: bool,
) -> Result<u8, Failure> {
    let reference = Reference::parse(reference).ok_or_else(|| {
        Failure::usage("this is no reference, which `session list` tells as `ref`")
    })?;
    let ended = sessions.revoke(user, &reference, reason).await;
    let lived = ended.map_err(|e| unsure(e, REVOKED_PERHAPS))?;
    let state = if lived { "revoked" } else { "absent" };
    if json {
        let (count, reason) = (u64::from(lived), lived.then_some(reason));
        output::json(&json!({ "count": count, "state": state, "reason": reason }))?;
    } else if lived {
        output::line("revoked")?;
    } else {
        output::note(format_args!("this user has no session that is called so"));
    }
    Ok(if lived { exit::DONE } else { exit::REFUSED })
}

/// Ends all sessions of a user or of a company.
pub(super) async fn revoke(
    args: &RevokeArgs,
    sessions: &Sessions,
    json: bool,
) -> Result<u8, Failure> {
    if let (Some(user), Some(reference)) = (&args.whose.user, &args.reference) {
        return revoke_called(user, reference, &args.reason, sessions, json).await;
    }
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
    // Nothing here mends what cannot be read.
    let wrong = found.orphans + found.missing + found.strays;
    let wrong = found.unreadable + if repair { 0 } else { wrong };
    if json {
        output::json(&json!({
            "sessions": found.sessions,
            "orphans": found.orphans,
            "missing": found.missing,
            "strays": found.strays,
            "unreadable": found.unreadable,
            "repaired": repair,
        }))?;
    } else {
        let numbers =
            [found.sessions, found.orphans, found.missing, found.strays, found.unreadable];
        let row = numbers.iter().map(ToString::to_string).collect();
        let header = ["SESSIONS", "ORPHANS", "MISSING", "STRAYS", "UNREADABLE"];
        output::line(&output::table(&header, [row]))?;
    }
    Ok(if wrong == 0 { exit::DONE } else { exit::REFUSED })
}
