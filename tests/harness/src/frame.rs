//! Finds the end of RESP2 and RESP3 frames in a buffer, without decoding them.
//!
//! It decides where frames end and what a request's arguments are; it does not judge what they
//! mean. Streamed types (`$?`, `*?`) are not known: no server sends them.

use bytes::{Buf as _, Bytes, BytesMut};

/// These bytes are not RESP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotResp;

/// The length of the first complete value in `buf`, with any attributes before it; `None` if there
/// is more to come.
pub(crate) fn length(buf: &[u8]) -> Result<Option<usize>, NotResp> {
    let mut at = 0;
    let mut values = 1_usize;
    while values > 0 {
        let Some((kind, line, next)) = header(buf, at)? else {
            return Ok(None);
        };
        at = next;
        values -= 1;
        match kind {
            b'+' | b'-' | b':' | b'_' | b'#' | b',' | b'(' => {}
            b'$' | b'=' | b'!' => {
                // -1 is RESP2's null, which has no body.
                if let Ok(n) = usize::try_from(number(line)?) {
                    at = at.checked_add(n).and_then(|end| end.checked_add(2)).ok_or(NotResp)?;
                    if at > buf.len() {
                        return Ok(None);
                    }
                }
            }
            b'*' | b'~' | b'>' => values += elements(line)?,
            b'%' => values += 2 * elements(line)?,
            // An attribute is a map that stands before the value it belongs to.
            b'|' => values += 2 * elements(line)? + 1,
            _ => return Err(NotResp),
        }
    }
    Ok(Some(at))
}

/// Takes the first complete value from the front of `buf`.
pub(crate) fn take(buf: &mut BytesMut) -> Result<Option<Bytes>, NotResp> {
    Ok(length(buf)?.map(|n| buf.split_to(n).freeze()))
}

/// Takes one request: an array of bulk strings, or an inline command.
pub(crate) fn take_request(buf: &mut BytesMut) -> Result<Option<(Bytes, Vec<Bytes>)>, NotResp> {
    match buf.first() {
        None => Ok(None),
        Some(b'*') => match take(buf)? {
            Some(frame) => {
                let args = strings(&frame).ok_or(NotResp)?;
                Ok(Some((frame, args)))
            }
            None => Ok(None),
        },
        Some(byte) if byte.is_ascii_alphabetic() || byte.is_ascii_whitespace() => {
            let Some(end) = buf.iter().position(|byte| *byte == b'\n') else {
                return Ok(None);
            };
            let frame = buf.split_to(end + 1).freeze();
            let words = frame.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
            let args = words.map(|word| frame.slice_ref(word)).collect();
            Ok(Some((frame, args)))
        }
        Some(_) => Err(NotResp),
    }
}

/// The elements of a flat array or push, as text where they are bulk or simple strings; elements
/// of other kinds end the list. `None` if the frame is neither.
pub(crate) fn strings(frame: &Bytes) -> Option<Vec<Bytes>> {
    let (b'*' | b'>', line, mut at) = header(frame, 0).ok()?? else {
        return None;
    };
    let mut found = Vec::new();
    for _ in 0..elements(line).ok()? {
        let Ok(Some((kind, line, next))) = header(frame, at) else {
            break;
        };
        let (from, to) = match kind {
            b'$' => match usize::try_from(number(line).ok()?) {
                Ok(n) => (next, next + n),
                Err(_) => break,
            },
            b'+' => (at + 1, next - 2),
            _ => break,
        };
        found.push(frame.slice(from..to));
        at = if kind == b'$' { to + 2 } else { next };
    }
    Some(found)
}

/// A frame without the attributes before its value.
pub(crate) fn without_attributes(frame: &Bytes) -> Bytes {
    let mut rest = frame.clone();
    while let Ok(Some((b'|', line, mut at))) = header(&rest, 0) {
        for _ in 0..2 * elements(line).unwrap_or(0) {
            match length(&rest[at..]) {
                Ok(Some(n)) => at += n,
                _ => return rest,
            }
        }
        rest.advance(at);
    }
    rest
}

/// Kind, text, and the position after a line.
type Header<'a> = (u8, &'a [u8], usize);

/// The line at `at`: its kind, its text, and where the next thing begins.
fn header(buf: &[u8], at: usize) -> Result<Option<Header<'_>>, NotResp> {
    let Some(kind) = buf.get(at) else {
        return Ok(None);
    };
    let rest = &buf[at + 1..];
    let Some(end) = rest.windows(2).position(|pair| pair == b"\r\n") else {
        // So that garbage is not buffered for ever while it lacks a line's end.
        let known = b"+-:_#,($=!*~>%|".contains(kind);
        return if known { Ok(None) } else { Err(NotResp) };
    };
    Ok(Some((*kind, &rest[..end], at + 1 + end + 2)))
}

pub(crate) fn number(line: &[u8]) -> Result<i64, NotResp> {
    std::str::from_utf8(line).ok().and_then(|text| text.parse().ok()).ok_or(NotResp)
}

fn elements(line: &[u8]) -> Result<usize, NotResp> {
    // RESP2's null array has -1 elements.
    Ok(usize::try_from(number(line)?.max(0)).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &[&[u8]] = &[
        b"+OK\r\n",
        b"-ERR no\r\n",
        b":-12\r\n",
        b"$5\r\na\r\nbc\r\n",
        b"$-1\r\n",
        b"$0\r\n\r\n",
        b"*-1\r\n",
        b"*0\r\n",
        b"*2\r\n*1\r\n:1\r\n$1\r\nx\r\n",
        b"_\r\n",
        b"#t\r\n",
        b",1.5\r\n",
        b"(12345678901234567890\r\n",
        b"!5\r\nERR x\r\n",
        b"=7\r\ntxt:abc\r\n",
        b"~2\r\n:1\r\n:2\r\n",
        b"%2\r\n+a\r\n:1\r\n+b\r\n*1\r\n_\r\n",
        b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n",
        b"|1\r\n+ttl\r\n:3\r\n$1\r\nv\r\n",
    ];

    #[test]
    fn every_type_ends_where_it_ends() {
        for frame in WHOLE {
            assert_eq!(length(frame), Ok(Some(frame.len())), "{}", frame.escape_ascii());
            for cut in 0..frame.len() {
                assert_eq!(length(&frame[..cut]), Ok(None), "{} {cut}", frame.escape_ascii());
            }
        }
        let mut all = BytesMut::from(WHOLE.concat().as_slice());
        for frame in WHOLE {
            assert_eq!(take(&mut all).expect("valid").as_deref(), Some(*frame));
        }
        assert!(all.is_empty());
    }

    #[test]
    fn garbage_is_not_resp() {
        for garbage in [&b"\x16\x03\x01"[..], b"hello\r\n", b"$x\r\n", b"*1\r\n?1\r\n"] {
            assert_eq!(length(garbage), Err(NotResp), "{}", garbage.escape_ascii());
        }
    }

    #[test]
    fn requests_are_arrays_or_lines() {
        let mut buf = BytesMut::from(&b"*2\r\n$3\r\nGET\r\n$3\r\na\r\n\r\nPING  x\r\n*0\r\nQU"[..]);
        let mut next = || take_request(&mut buf).expect("valid").map(|(_, args)| args);
        assert_eq!(next(), Some(vec!["GET".into(), "a\r\n".into()]));
        assert_eq!(next(), Some(vec!["PING".into(), "x".into()]));
        assert_eq!(next(), Some(vec![]));
        assert_eq!(next(), None);
    }

    #[test]
    fn attributes_can_be_skipped() {
        let frame = Bytes::from_static(b"|1\r\n+k\r\n*1\r\n:1\r\n|0\r\n:3\r\n");
        assert_eq!(without_attributes(&frame), ":3\r\n");
    }
}
