//! Source text with its comments, and if asked its strings, blanked out: what the rules search, so
//! that a word in a comment is not taken for code. Every byte keeps its place. No parser.

/// Two views of one source, as long as the source, line by line.
#[derive(Debug)]
pub(crate) struct Masked {
    /// Neither comments nor the contents of strings.
    pub(crate) code: String,
    /// No comments, strings as they stand.
    pub(crate) uncommented: String,
}

/// Which bytes a stretch of source is made of.
#[derive(Clone, Copy, PartialEq)]
enum Stretch {
    Code,
    Comment,
    Text,
}

/// Masks Rust.
pub(crate) fn rust(source: &str) -> Masked {
    mask(source, rust_stretch)
}

/// Masks Lua.
pub(crate) fn lua(source: &str) -> Masked {
    mask(source, lua_stretch)
}

/// `next` says what begins at an offset and how many bytes of it there are, at least one.
fn mask(source: &str, next: fn(&str, usize) -> (Stretch, usize)) -> Masked {
    let (mut code, mut uncommented) = (Vec::new(), Vec::new());
    let mut at = 0;
    while at < source.len() {
        let (stretch, length) = next(source, at);
        let end = (at + length.max(1)).min(source.len());
        for &byte in &source.as_bytes()[at..end] {
            let blank = if byte == b'\n' { b'\n' } else { b' ' };
            code.push(if stretch == Stretch::Code { byte } else { blank });
            uncommented.push(if stretch == Stretch::Comment { blank } else { byte });
        }
        at = end;
    }
    let text = |bytes| String::from_utf8(bytes).expect("stretches end where characters end");
    Masked { code: text(code), uncommented: text(uncommented) }
}

fn rust_stretch(source: &str, at: usize) -> (Stretch, usize) {
    let rest = &source[at..];
    if rest.starts_with("//") {
        return (Stretch::Comment, rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return (Stretch::Comment, nested_comment(rest));
    }
    if rest.starts_with('"') {
        return (Stretch::Text, quoted(rest, '"'));
    }
    if let Some(hashes) = raw_string(source, at) {
        let close = format!("\"{}", "#".repeat(hashes));
        let open = hashes + 2;
        let end = rest[open..].find(&close).map_or(rest.len(), |end| open + end + close.len());
        return (Stretch::Text, end);
    }
    if let Some(inside) = rest.strip_prefix('\'') {
        let first = inside.chars().next().unwrap_or('\'');
        if first == '\\' || inside[first.len_utf8()..].starts_with('\'') {
            return (Stretch::Text, quoted(rest, '\''));
        }
    }
    (Stretch::Code, rest.chars().next().map_or(1, char::len_utf8))
}

/// `r"`, `r#"`, … at this offset, unless the `r` ends a longer word: its number of hashes.
fn raw_string(source: &str, at: usize) -> Option<usize> {
    let tail = source[at..].strip_prefix('r')?;
    let before = source[..at].trim_end_matches(['b', 'c']);
    let hashes = tail.len() - tail.trim_start_matches('#').len();
    let starts = tail[hashes..].starts_with('"') && !before.ends_with(is_word);
    starts.then_some(hashes)
}

/// The length of a quoted text with backslash escapes, both quotes included.
fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (index, c) in rest.char_indices().skip(1) {
        if !escaped && c == quote {
            return index + 1;
        }
        escaped = !escaped && c == '\\';
    }
    rest.len()
}

fn nested_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

fn lua_stretch(source: &str, at: usize) -> (Stretch, usize) {
    let rest = &source[at..];
    let long =
        |rest: &str, from: usize| rest[from..].find("]]").map_or(rest.len(), |n| from + n + 2);
    if rest.starts_with("--[[") {
        (Stretch::Comment, long(rest, 4))
    } else if rest.starts_with("--") {
        (Stretch::Comment, rest.find('\n').unwrap_or(rest.len()))
    } else if rest.starts_with("[[") {
        (Stretch::Text, long(rest, 2))
    } else if let Some(quote) = rest.chars().next().filter(|c| ['\'', '"'].contains(c)) {
        (Stretch::Text, quoted(rest, quote))
    } else {
        (Stretch::Code, rest.chars().next().map_or(1, char::len_utf8))
    }
}

/// Whether a character can stand inside a word of code.
pub(crate) fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The offsets at which `word` stands in `text` as a word of its own.
pub(crate) fn find_word<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    text.match_indices(word).map(|(at, _)| at).filter(move |&at| {
        let inner = |c: char| is_word(c);
        let first = word.starts_with(is_word) && text[..at].ends_with(inner);
        let last = word.ends_with(is_word) && text[at + word.len()..].starts_with(inner);
        !first && !last
    })
}

/// The offset of what closes the bracket that stands at `open`. `code` must be masked.
pub(crate) fn closing(code: &str, open: usize) -> Option<usize> {
    let mut depth = 0_u32;
    for (index, c) in code[open..].char_indices() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.checked_sub(1)?,
            _ => {}
        }
        if depth == 0 {
            return Some(open + index);
        }
    }
    None
}

/// The line, from 1, on which an offset lies.
pub(crate) fn line_at(text: &str, offset: usize) -> usize {
    text[..offset].matches('\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rust_comments_and_strings_are_blanked_and_nothing_moves() {
        let source =
            "a /* b /* c */ d */ \"e // \\\" é\" 'f' '\\'' r#\"g \" h\"# 'i: x // fred\nfred";
        let masked = rust(source);
        assert_eq!(masked.code.len(), source.len());
        assert_eq!(masked.uncommented.len(), source.len());
        assert_eq!(
            masked.code.split_whitespace().collect::<Vec<_>>(),
            ["a", "r", "'i:", "x", "fred"].into_iter().filter(|w| *w != "r").collect::<Vec<_>>()
        );
        assert_eq!(find_word(&masked.code, "fred").count(), 1);
        assert!(masked.uncommented.contains("g \" h") && !masked.uncommented.contains('c'));
    }

    #[test]
    fn lua_comments_and_strings_are_blanked() {
        let masked = lua("-- if a then\nlocal x = 'if -- b' --[[ if\nif ]] if [[if]]\n");
        assert_eq!(find_word(&masked.code, "if").count(), 1);
        assert!(masked.uncommented.contains("'if -- b'") && !masked.uncommented.contains("a then"));
        assert_eq!(masked.code.lines().count(), 3);
    }

    #[test]
    fn a_word_is_not_found_inside_another() {
        assert_eq!(find_word("alfred fred_x fred::y (fred)", "fred").count(), 2);
        assert_eq!(find_word("locks.acquire_all locks.acquire.", "locks.acquire").count(), 1);
    }

    #[test]
    fn brackets_close_at_their_own_depth() {
        assert_eq!(closing("f(a[1], (b))c)", 1), Some(11));
        assert_eq!(closing("(a", 0), None);
    }
}
