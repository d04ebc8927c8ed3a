//! The ways to break a script: pure text to text, found by pattern in the masked code. Each leaves
//! a script that compiles, so that it is the behaviour that must be noticed.

use crate::tidy::mask::{self, Masked, closing, find_word, is_word, line_at};
use std::fmt;

/// A script with one thing wrong.
#[derive(Debug, PartialEq)]
pub(super) struct Mutant {
    pub(super) path: String,
    /// The whole broken script.
    pub(super) text: String,
    kind: &'static str,
    /// The line as it was. Unlike a number it survives edits elsewhere in the file.
    line: String,
    /// Which of several mutants of this kind on lines that read the same, from 1.
    nth: usize,
}

impl Mutant {
    /// The crate whose tests should notice.
    pub(super) fn package(&self) -> &str {
        self.path.split('/').nth(1).unwrap_or_default()
    }
}

impl fmt::Display for Mutant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.kind)?;
        if self.nth > 1 {
            write!(f, " {}", self.nth)?;
        }
        write!(f, ": {}", self.line)
    }
}

/// A stretch of the script and what stands there instead.
struct Edit {
    kind: &'static str,
    from: usize,
    to: usize,
    text: String,
}

/// Every mutant of a script, in the order of its lines.
pub(super) fn of(path: &str, script: &str) -> Vec<Mutant> {
    let masked = mask::lua(script);
    let mut edits = comparisons(&masked.code);
    edits.extend(conditions(&masked));
    edits.extend(extremes(&masked.code));
    edits.extend(lifetimes(&masked));
    edits.extend(statements(&masked.code));
    edits.sort_by_key(|edit| edit.from);

    let mut mutants: Vec<Mutant> = Vec::new();
    for Edit { kind, from, to, text } in edits {
        let line = script.lines().nth(line_at(script, from) - 1).unwrap_or_default().trim();
        let alike = |mutant: &&Mutant| mutant.kind == kind && mutant.line == line;
        let nth = mutants.iter().filter(alike).count() + 1;
        let text = format!("{}{text}{}", &script[..from], &script[to..]);
        mutants.push(Mutant { path: path.to_owned(), text, kind, line: line.to_owned(), nth });
    }
    mutants
}

/// `==` becomes `~=` and the other way round.
fn comparisons(code: &str) -> Vec<Edit> {
    let flips = [("==", "~="), ("~=", "==")];
    let each = flips.into_iter().flat_map(|(old, new)| {
        code.match_indices(old).map(move |(from, _)| Edit {
            kind: "flip",
            from,
            to: from + old.len(),
            text: new.to_owned(),
        })
    });
    each.collect()
}

/// `if c then` becomes `if not (c) then`, unless flipping its one comparison says the same.
fn conditions(masked: &Masked) -> Vec<Edit> {
    let code = &masked.code;
    let each = find_word(code, "if").chain(find_word(code, "elseif")).filter_map(|at| {
        let from = at + code[at..].find("if")? + 2;
        let to = from + find_word(&code[from..], "then").next()?;
        let condition = &code[from..to];
        let joined = ["and", "or"].iter().any(|word| find_word(condition, word).next().is_some());
        let compares = condition.contains("==") || condition.contains("~=");
        let text = format!(" not ({}) ", masked.uncommented[from..to].trim());
        (joined || !compares).then_some(Edit { kind: "negate", from, to, text })
    });
    each.collect()
}

/// The larger becomes the smaller and the other way round.
fn extremes(code: &str) -> Vec<Edit> {
    let swaps = [("math.max", "math.min"), ("math.min", "math.max")];
    let each = swaps.into_iter().flat_map(|(old, new)| {
        find_word(code, old).map(move |from| Edit {
            kind: "swap",
            from,
            to: from + old.len(),
            text: new.to_owned(),
        })
    });
    each.collect()
}

/// A key's time to live is forgotten: `, 'PX', ttl` goes.
fn lifetimes(masked: &Masked) -> Vec<Edit> {
    let Masked { code, uncommented } = masked;
    let options = ["'PX'", "'EX'", "'PXAT'", "'EXAT'", "\"PX\"", "\"EX\"", "\"PXAT\"", "\"EXAT\""];
    let each = options.into_iter().flat_map(|option| {
        uncommented.match_indices(option).filter_map(move |(at, _)| {
            let from = code[..at].trim_end().strip_suffix(',')?.len();
            let value = at + option.len() + code[at + option.len()..].find(',')? + 1;
            let to = value + argument(&code[value..])?;
            Some(Edit { kind: "drop ttl", from, to, text: String::new() })
        })
    });
    each.collect()
}

/// The length of an argument: up to the comma or bracket that ends it.
fn argument(code: &str) -> Option<usize> {
    let mut depth = 0_u32;
    for (index, c) in code.char_indices() {
        match c {
            ',' | ')' | '}' if depth == 0 => return Some(index),
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// A call whose answer nobody reads is there for its effect: it goes.
fn statements(code: &str) -> Vec<Edit> {
    let calls = find_word(code, "redis.call").chain(find_word(code, "redis.pcall"));
    let each = calls.filter_map(|from| {
        let to = closing(code, from + code[from..].find('(')?)? + 1;
        let before = code[..from].trim_end();
        let word: String = before.chars().rev().take_while(|&c| is_word(c)).collect();
        let word: String = word.chars().rev().collect();
        let own_line = code[..from].rsplit('\n').next().is_some_and(|line| line.trim().is_empty());
        let continued = before.ends_with(['=', ',', '(', '{', '+', '-', '*', '/', '.', '<', '>'])
            || ["and", "or", "not", "return", "in"].contains(&word.as_str());
        let used = code[to..].trim_start().starts_with(['[', '.', '+', '-', '=', '~']);
        let statement = own_line || ["then", "do", "else"].contains(&word.as_str());
        (statement && !continued && !used).then(|| Edit {
            kind: "delete",
            from,
            to,
            text: String::new(),
        })
    });
    each.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mutated(line: &str) -> Vec<(&'static str, String)> {
        of("crates/p/src/redis/a.lua", line).into_iter().map(|m| (m.kind, m.text)).collect()
    }

    fn one(line: &str, kind: &'static str, broken: &str) {
        assert_eq!(mutated(line), [(kind, broken.to_owned())]);
    }

    #[test]
    fn a_comparison_is_flipped_once() {
        one("if t == ARGV[1] then", "flip", "if t ~= ARGV[1] then");
        one("return t ~= ARGV[1] -- a == b", "flip", "return t == ARGV[1] -- a == b");
    }

    #[test]
    fn a_condition_is_negated_where_a_flip_does_not_do_it() {
        one("if held then", "negate", "if not (held) then");
        one("elseif\n f('then') < 1 then", "negate", "elseif not (f('then') < 1) then");
        let both = mutated("if a and b == 1 then");
        assert_eq!(both.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), ["negate", "flip"]);
    }

    #[test]
    fn the_larger_becomes_the_smaller() {
        one("local f = math.max(a, b)", "swap", "local f = math.min(a, b)");
    }

    #[test]
    fn a_time_to_live_is_dropped_with_its_value() {
        one(
            "return redis.call('SET', k, v, 'PX', f(a, b[1]), 'NX')",
            "drop ttl",
            "return redis.call('SET', k, v, 'NX')",
        );
        one("x = redis.call('SET', k, v, 'PX', ttl)", "drop ttl", "x = redis.call('SET', k, v)");
    }

    #[test]
    fn a_call_for_its_effect_is_deleted_and_one_for_its_answer_is_not() {
        one("redis.call('DEL',\n f(k))\n", "delete", "\n");
        one("for _ in x do redis.call('DEL', k) end", "delete", "for _ in x do  end");
        for read in [
            "local a = redis.call('GET', k)",
            "return redis.call('GET', k)",
            "local a = f(\n redis.call('GET', k))",
            "local a =\n redis.call('GET', k)",
        ] {
            assert_eq!(mutated(read), [], "{read}");
        }
    }

    #[test]
    fn equal_lines_are_told_apart_and_comments_are_left_alone() {
        let twice = "redis.call('DEL', k)\nredis.call('DEL', k)\n-- redis.call('DEL', k)\n";
        let names: Vec<_> = of("crates/p/a.lua", twice).iter().map(ToString::to_string).collect();
        assert_eq!(
            names,
            [
                "crates/p/a.lua: delete: redis.call('DEL', k)",
                "crates/p/a.lua: delete 2: redis.call('DEL', k)"
            ]
        );
    }
}
