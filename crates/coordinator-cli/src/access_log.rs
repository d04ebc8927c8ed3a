//! Lines of access logs in the common and the combined format: who asked for what, and when.
//!
//! Nothing is read from files here, and nothing is counted.

use clap::ValueEnum;

/// How the lines of a log are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// host ident user [time] "request" status bytes, and whatever follows: referer, agent, more
    Combined,
    /// host ident user [time] "request" status bytes
    Common,
}

/// What a line says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Line<'a> {
    /// Who asked: an address or a host's name.
    pub(crate) host: &'a str,
    /// When, in seconds since the Unix epoch.
    pub(crate) at: u64,
    /// What was asked for, with its query.
    pub(crate) path: &'a str,
}

/// Reads a line; `None` if it is not in that format, or holds no request, as those that timed out.
pub(crate) fn parse(line: &str, format: Format) -> Option<Line<'_>> {
    let mut words = line.splitn(4, ' ');
    let (host, _ident, _user) = (words.next()?, words.next()?, words.next()?);
    let (time, rest) = words.next()?.strip_prefix('[')?.split_once("] \"")?;
    let (request, rest) = quoted(rest)?;
    let mut rest = rest.strip_prefix(' ')?.splitn(3, ' ');
    let (status, size, more) = (rest.next()?, rest.next()?, rest.next());
    let sound = !host.is_empty()
        && (digits(status).is_some() && status.len() == 3)
        && (size == "-" || digits(size).is_some())
        && (format == Format::Combined || more.is_none());
    let line = Line { host, at: seconds(time)?, path: path(request)? };
    sound.then_some(line)
}

/// What is asked for by a request line, with its query.
fn path(request: &str) -> Option<&str> {
    let (method, rest) = request.split_once(' ')?;
    // What has no version is a request of HTTP/0.9, or one with a space in its path.
    let path = rest.rsplit_once(" HTTP/").map_or(rest, |(path, _)| path);
    (!method.is_empty() && !path.is_empty()).then_some(path)
}

/// The path of the first quoted text that is a request, however the rest of the line looks.
pub(crate) fn path_of(line: &str) -> Option<&str> {
    let (request, _) = quoted(line.split_once("] \"")?.1)?;
    path(request)
}

/// What stands before the closing quote, and what after it. A quote after a backslash closes
/// nothing.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let mut escaped = false;
    let end = text.bytes().position(|byte| {
        let closes = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closes
    })?;
    Some((&text[..end], &text[end + 1..]))
}

/// `17/May/2015:10:05:03 +0000` as seconds since the Unix epoch; nothing before that.
fn seconds(time: &str) -> Option<u64> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (date, zone) = time.split_once(' ')?;
    let parts: Vec<&str> = date.split(['/', ':']).collect();
    let [day, month, year, hour, minute, second] = parts[..] else { return None };
    let month = 1 + MONTHS.iter().position(|name| *name == month)?;
    let days = days(digits(year)?, i64::try_from(month).ok()?, digits(day)?)?;
    let (hour, minute, second) = (digits(hour)?, digits(minute)?, digits(second)?);
    // A leap second is the first of the next minute.
    let of_day = hour < 24 && minute < 60 && second <= 60;
    let (sign, zone) = zone.split_at_checked(1)?;
    let (hours, minutes) = zone.split_at_checked(2)?;
    let ahead = digits(hours)? * 3600 + digits(minutes)? * 60;
    let ahead = match sign {
        "+" => ahead,
        "-" => -ahead,
        _ => return None,
    };
    let at = days * 86400 + hour * 3600 + minute * 60 + second - ahead;
    u64::try_from(at).ok().filter(|_| of_day)
}

/// The days since the Unix epoch of a date in the Gregorian calendar, counted from the first of
/// March so that the leap day is the year's last ("`days_from_civil`", Howard Hinnant).
fn days(year: i64, month: i64, day: i64) -> Option<i64> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let longest = match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    if !(1..=longest).contains(&day) {
        return None;
    }
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    Some(era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468)
}

/// A number of digits alone.
fn digits(text: &str) -> Option<i64> {
    let plain = !text.is_empty() && text.len() <= 18 && text.bytes().all(|it| it.is_ascii_digit());
    plain.then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMON: &str =
        r#"83.149.9.216 - - [17/May/2015:10:05:03 +0000] "GET /a?b=c HTTP/1.1" 200 203023"#;

    fn combined() -> String {
        format!(r#"{COMMON} "http://x/" "Mozilla/5.0 (\"x\")""#)
    }

    #[test]
    fn both_formats_are_read() {
        let read = Line { host: "83.149.9.216", at: 1_431_857_103, path: "/a?b=c" };
        let combined = combined();
        // What follows the size is nobody's business, and an agent without an end is no harm.
        let cut = &combined[..combined.len() - 1];
        for line in [COMMON, &combined, cut] {
            assert_eq!(parse(line, Format::Combined), Some(read), "{line}");
        }
        assert_eq!(parse(COMMON, Format::Common), Some(read));
        assert_eq!(parse(&combined, Format::Common), None);
    }

    #[test]
    fn times_are_moved_to_utc() {
        for (time, at) in [
            ("01/Jan/1970:00:00:00 +0000", Some(0)),
            ("01/Jan/1970:01:30:00 +0130", Some(0)),
            ("31/Dec/1969:23:59:59 -0001", Some(59)),
            ("01/Jan/1970:00:00:00 +0001", None),
            ("29/Feb/2000:12:00:00 +0000", Some(951_825_600)),
            ("29/Feb/2024:23:59:60 +0000", Some(1_709_251_200)),
            ("31/Dec/9999:23:59:59 +0000", Some(253_402_300_799)),
            ("29/Feb/2100:00:00:00 +0000", None),
            ("31/Apr/2015:00:00:00 +0000", None),
            ("00/May/2015:00:00:00 +0000", None),
            ("17/Mai/2015:10:05:03 +0000", None),
            ("17/May/2015:24:00:00 +0000", None),
            ("17/May/2015:10:60:00 +0000", None),
            ("17/May/2015:10:05:61 +0000", None),
            ("17/May/2015:10:05 +0000", None),
            ("17/May/2015:10:05:03", None),
            ("17/May/2015:10:05:03 0000", None),
            ("17/May/2015:10:05:03 +é0", None),
            ("17/May/2015:+1:05:03 +0000", None),
            ("17/May/99999999999999999999:10:05:03 +0000", None),
        ] {
            assert_eq!(seconds(time), at, "{time}");
        }
    }

    #[test]
    fn a_path_is_taken_with_its_query_and_whatever_else_is_in_it() {
        for (request, is) in [
            ("GET / HTTP/1.1", Some("/")),
            ("GET /a?b=1&c=/d HTTP/1.0", Some("/a?b=1&c=/d")),
            ("GET /with a space HTTP/1.1", Some("/with a space")),
            (r#"GET /\"quoted\" HTTP/1.1"#, Some(r#"/\"quoted\""#)),
            ("GET /old", Some("/old")),
            ("-", None),
            ("", None),
            (" / HTTP/1.1", None),
        ] {
            let line = format!(r#"h - - [17/May/2015:10:05:03 +0000] "{request}" 200 5"#);
            let read = parse(&line, Format::Common).map(|line| line.path.to_owned());
            assert_eq!(read.as_deref(), is, "{request}");
            assert_eq!(path_of(&line), is, "{request}");
        }
    }

    #[test]
    fn other_lines_are_not_taken_for_requests() {
        let zone = "[17/May/2015:10:05:03 +0000]";
        for line in [
            String::new(),
            "rubbish".to_owned(),
            COMMON.replace(" 200 203023", ""),
            COMMON.replace(" 200", " 2000"),
            COMMON.replace("203023", "x"),
            COMMON.replace("HTTP/1.1\"", "HTTP/1.1"),
            COMMON.replace(zone, "17/May/2015:10:05:03"),
            // With the name of a virtual host before it, the host would be no client.
            format!("www.example.org:80 {COMMON}"),
            format!(" {COMMON}"),
        ] {
            assert_eq!(parse(&line, Format::Combined), None, "{line}");
        }
    }
}
