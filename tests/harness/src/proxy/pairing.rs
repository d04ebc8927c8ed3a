//! Which request a frame from the server answers, if any.
//!
//! Replies come in the order of their requests; pushes come in between and answer nothing. The
//! commands of pub/sub are the odd ones: each of their channels is confirmed by a frame that looks
//! like a message, unless the whole command is refused by one ordinary error.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use crate::frame;

/// The arguments of a request, its name first.
pub(crate) type Args = Arc<[Bytes]>;

/// What a frame from the server is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// The reply to this request.
    Reply(Args),
    /// A published message.
    Message,
    /// An invalidation of client-side caching.
    Invalidation,
    /// Anything else that no request waits for.
    Other,
}

/// The state of one connection.
#[derive(Debug, Default)]
pub(crate) struct Pairing {
    waiting: VecDeque<Waiting>,
    resp3: bool,
    /// Subscriptions that a RESP2 connection has: by channel and pattern, and by shard channel.
    subscribed: [bool; 2],
    replies_off: bool,
}

#[derive(Debug)]
struct Waiting {
    args: Args,
    /// For the commands of pub/sub: how many confirmations have come.
    confirmed: Option<usize>,
}

impl Pairing {
    /// A request is about to be passed on to the server.
    pub(crate) fn request(&mut self, args: Args) {
        let Some(name) = args.first() else { return };
        if is(name, "CLIENT") && args.get(1).is_some_and(|arg| is(arg, "REPLY")) {
            match args.get(2) {
                Some(arg) if is(arg, "ON") => self.replies_off = false,
                Some(arg) if is(arg, "OFF") => self.replies_off = true,
                // SKIP is for clients that count what they sent; none of ours does.
                _ => {}
            }
        }
        if !self.replies_off {
            let confirmed = is_pubsub(name).then_some(0);
            self.waiting.push_back(Waiting { args, confirmed });
        }
    }

    /// A complete frame has come from the server.
    pub(crate) fn frame(&mut self, frame: &Bytes) -> Meaning {
        let value = frame::without_attributes(frame);
        let push = value.first() == Some(&b'>');
        let words = if push || (value.first() == Some(&b'*') && !self.resp3) {
            frame::strings(&value).unwrap_or_default()
        } else {
            Vec::new()
        };
        let first = words.first().cloned().unwrap_or_default();
        let listening = push || self.subscribed.contains(&true);
        match first.as_ref() {
            b"message" | b"pmessage" | b"smessage" if listening => return Meaning::Message,
            b"invalidate" if push => return Meaning::Invalidation,
            _ => {}
        }
        if is_pubsub(&first) && (listening || self.expects_confirmation()) {
            return self.confirmation(&first, &value);
        }
        if push {
            return Meaning::Other;
        }
        self.reply(&value)
    }

    fn expects_confirmation(&self) -> bool {
        self.waiting.iter().take(2).any(|waiting| waiting.confirmed.is_some())
    }

    /// The server's word that a channel was subscribed or left.
    fn confirmation(&mut self, kind: &Bytes, value: &Bytes) -> Meaning {
        let none_left = value.ends_with(b":0\r\n");
        let shard = usize::from(kind.starts_with(b"s") && !is(kind, "subscribe"));
        self.subscribed[shard] = !none_left && !self.resp3;
        let matches = |waiting: &Waiting| is(kind, &String::from_utf8_lossy(&waiting.args[0]));
        // An UNSUBSCRIBE of everything has as many confirmations as it likes, so it stays in front
        // until something else comes.
        if let [front, next, ..] = self.waiting.make_contiguous()
            && front.confirmed.is_some_and(|n| n > 0)
            && !matches(front)
            && matches(next)
        {
            self.waiting.pop_front();
        }
        // No match: the server itself took a subscription away.
        let Some(front) = self.waiting.front_mut().filter(|front| matches(front)) else {
            return Meaning::Other;
        };
        let Some(confirmed) = &mut front.confirmed else {
            return Meaning::Other;
        };
        *confirmed += 1;
        let (confirmed, args) = (*confirmed, Arc::clone(&front.args));
        if confirmed == args.len() - 1 {
            self.waiting.pop_front();
        }
        if confirmed == 1 { Meaning::Reply(args) } else { Meaning::Other }
    }

    fn reply(&mut self, value: &Bytes) -> Meaning {
        // Whoever has confirmations cannot have a reply as well: that one is done.
        while self.waiting.front().is_some_and(|front| front.confirmed.is_some_and(|n| n > 0)) {
            self.waiting.pop_front();
        }
        let Some(Waiting { args, .. }) = self.waiting.pop_front() else {
            return Meaning::Other;
        };
        let failed = value.starts_with(b"-");
        if is(&args[0], "HELLO") && !failed {
            match args.get(1) {
                Some(version) if version == "3" => self.resp3 = true,
                Some(version) if version == "2" => self.resp3 = false,
                _ => {}
            }
        }
        if is(&args[0], "RESET") && !failed {
            self.resp3 = false;
            self.subscribed = [false; 2];
        }
        Meaning::Reply(args)
    }
}

fn is(arg: &Bytes, word: &str) -> bool {
    arg.eq_ignore_ascii_case(word.as_bytes())
}

fn is_pubsub(name: &Bytes) -> bool {
    ["SUBSCRIBE", "UNSUBSCRIBE", "PSUBSCRIBE", "PUNSUBSCRIBE", "SSUBSCRIBE", "SUNSUBSCRIBE"]
        .iter()
        .any(|word| is(name, word))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pairing that has seen these requests, each a line of words.
    fn sent(requests: &[&'static str]) -> Pairing {
        let mut pairing = Pairing::default();
        for line in requests {
            pairing.request(line.split(' ').map(Bytes::from).collect());
        }
        pairing
    }

    /// What the frames mean: `R:` and the request, or the kind's first letter.
    fn meanings(pairing: &mut Pairing, frames: &[&'static str]) -> Vec<String> {
        let tell = |frame: &&'static str| match pairing.frame(&Bytes::from(*frame)) {
            Meaning::Reply(args) => {
                let words: Vec<_> = args.iter().map(|arg| String::from_utf8_lossy(arg)).collect();
                format!("R:{}", words.join(" "))
            }
            other => format!("{other:?}")[..1].to_owned(),
        };
        frames.iter().map(tell).collect()
    }

    #[test]
    fn pushes_between_pipelined_replies_answer_nothing() {
        let mut pairing = sent(&["HELLO 3", "GET a", "SUBSCRIBE x y", "GET b"]);
        let frames = [
            "%1\r\n+proto\r\n:3\r\n",
            ">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\na\r\n",
            ">1\r\n+unheard-of\r\n",
            "$1\r\n1\r\n",
            ">3\r\n$9\r\nsubscribe\r\n$1\r\nx\r\n:1\r\n",
            ">3\r\n$7\r\nmessage\r\n$1\r\nx\r\n$1\r\nm\r\n",
            ">3\r\n$9\r\nsubscribe\r\n$1\r\ny\r\n:2\r\n",
            "$1\r\n2\r\n",
        ];
        let meant = meanings(&mut pairing, &frames);
        assert_eq!(
            meant,
            ["R:HELLO 3", "I", "O", "R:GET a", "R:SUBSCRIBE x y", "M", "O", "R:GET b"]
        );
    }

    #[test]
    fn a_refused_subscription_has_one_reply() {
        let mut pairing = sent(&["HELLO 3", "SUBSCRIBE x", "GET a"]);
        let frames = ["%0\r\n", "-NOPERM no\r\n", "-ERR other\r\n"];
        assert_eq!(meanings(&mut pairing, &frames), ["R:HELLO 3", "R:SUBSCRIBE x", "R:GET a"]);
    }

    #[test]
    fn resp2_confirmations_are_arrays_and_values_that_look_like_them_are_replies() {
        let mut pairing =
            sent(&["LRANGE l 0 -1", "SUBSCRIBE x", "PING", "UNSUBSCRIBE", "MGET a b c"]);
        let message = "*3\r\n$7\r\nmessage\r\n$1\r\nx\r\n$1\r\nm\r\n";
        let frames = [
            message,
            "*3\r\n$9\r\nsubscribe\r\n$1\r\nx\r\n:1\r\n",
            message,
            "*2\r\n$4\r\npong\r\n$0\r\n\r\n",
            "*3\r\n$11\r\nunsubscribe\r\n$1\r\nx\r\n:0\r\n",
            message,
        ];
        assert_eq!(
            meanings(&mut pairing, &frames),
            ["R:LRANGE l 0 -1", "R:SUBSCRIBE x", "M", "R:PING", "R:UNSUBSCRIBE", "R:MGET a b c"]
        );
    }

    #[test]
    fn leaving_everything_is_confirmed_as_often_as_it_likes() {
        let mut pairing = sent(&["HELLO 3", "UNSUBSCRIBE", "PUNSUBSCRIBE", "GET a"]);
        let frames = [
            "%0\r\n",
            ">3\r\n$11\r\nunsubscribe\r\n$1\r\nx\r\n:1\r\n",
            ">3\r\n$11\r\nunsubscribe\r\n$1\r\ny\r\n:0\r\n",
            ">3\r\n$12\r\npunsubscribe\r\n_\r\n:0\r\n",
            "_\r\n",
        ];
        assert_eq!(
            meanings(&mut pairing, &frames),
            ["R:HELLO 3", "R:UNSUBSCRIBE", "O", "R:PUNSUBSCRIBE", "R:GET a"]
        );
    }

    #[test]
    fn a_subscription_taken_by_the_server_answers_nothing() {
        let mut pairing = sent(&["HELLO 3", "SSUBSCRIBE x"]);
        let frames = [
            "|1\r\n+a\r\n:1\r\n%0\r\n",
            ">3\r\n$12\r\nsunsubscribe\r\n$1\r\nz\r\n:0\r\n",
            ">3\r\n$10\r\nssubscribe\r\n$1\r\nx\r\n:1\r\n",
        ];
        assert_eq!(meanings(&mut pairing, &frames), ["R:HELLO 3", "O", "R:SSUBSCRIBE x"]);
    }

    #[test]
    fn replies_can_be_off() {
        let mut pairing = sent(&["CLIENT REPLY OFF", "SET a b", "CLIENT REPLY ON", "GET a"]);
        let frames = ["+OK\r\n", "$1\r\nb\r\n"];
        assert_eq!(meanings(&mut pairing, &frames), ["R:CLIENT REPLY ON", "R:GET a"]);
    }
}
