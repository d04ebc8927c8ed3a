//! The rules for scripts: their header, their size, what must not stand in them, and that each is
//! included, listed in its crate's `SCRIPTS` and described in `docs/keys.md`. What they do is for
//! tests to say.

use super::mask::{self, closing, find_word, line_at};
use super::{Finding, Source};

const LINES: usize = 90;
/// The same for code that several scripts share.
const SHARED_LINES: usize = 150;
/// How a file opens that stands before scripts and is none itself.
const SHARED: &str = "-- Shared: ";

/// Everything wrong with the scripts under `crates/`.
pub(crate) fn check(sources: &[Source]) -> Vec<Finding> {
    let keys = sources.iter().find(|source| source.path == "docs/keys.md");
    let keys = keys.map_or("", |source| &source.text);
    let scripts = sources.iter().filter(|source| source.is_script());
    scripts
        .flat_map(|script| {
            if script.text.starts_with(SHARED) {
                return shared(script, sources);
            }
            let mut findings = header(script);
            findings.extend(body(script));
            findings.extend(registration(script, sources, keys));
            findings
        })
        .collect()
}

/// Code that several scripts share: it takes everything as arguments, and stands before a script.
fn shared(script: &Source, sources: &[Source]) -> Vec<Finding> {
    let mut findings = body(script);
    if !header_lines(&script.text).iter().any(|line| line.starts_with("Safe to run twice: ")) {
        findings.push(script.at(1, "header", "the header has no `Safe to run twice: …`"));
    }
    let code = mask::lua(&script.text).code;
    for table in ["KEYS", "ARGV"] {
        for at in find_word(&code, table) {
            let what = format!("shared code names no {table}: its callers do");
            findings.push(script.at(line_at(&code, at), "shared", what));
        }
    }
    let below = script.path.find("src/").map_or("", |at| &script.path[..at + 4]);
    let rust = sources.iter().filter(|source| source.path.starts_with(below) && source.is("rs"));
    let mut included = rust.filter_map(|source| {
        let folder = source.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let file = script.path.strip_prefix(folder)?.strip_prefix('/')?;
        Some((source, file))
    });
    if !included.any(|(source, file)| stands_before(&mask::rust(&source.text).uncommented, file)) {
        findings.push(script.at(1, "unused", "no script has it before itself"));
    }
    findings
}

/// Whether shared code is put together with a script: it is included in a `concat!(…)`, also in one
/// that a macro writes, or stands before the script's own file in what such a macro is given.
fn stands_before(uncommented: &str, file: &str) -> bool {
    let included = format!("include_str!(\"{file}\")");
    let concatenated = find_word(uncommented, "concat").any(|at| {
        let rest = &uncommented[at..];
        let inner = rest.strip_prefix("concat!").and_then(|_| Some(&rest[..closing(rest, 7)?]));
        inner.is_some_and(|inner| inner.contains(&included))
    });
    concatenated
        || declarations(uncommented).any(|declared| {
            declared.files.split_last().is_some_and(|(_, before)| before.contains(&file))
        })
}

/// The comment lines a script opens with, without their dashes.
fn header_lines(text: &str) -> Vec<&str> {
    text.lines().map_while(|line| line.strip_prefix("--")).map(str::trim).collect()
}

fn header(script: &Source) -> Vec<Finding> {
    let lines = header_lines(&script.text);
    let mut findings = Vec::new();
    let mut miss = |what: String| findings.push(script.at(1, "header", what));
    let labels = ["KEYS[", "ARGV[", "Answer:", "Safe to run twice:"];
    let purpose = lines.first().copied().unwrap_or_default();
    if purpose.is_empty() || labels.iter().any(|label| purpose.starts_with(label)) {
        miss("the header begins with what the script is for".to_owned());
    }
    for label in ["Answer:", "Safe to run twice:"] {
        if !lines.iter().any(|line| line.strip_prefix(label).is_some_and(|said| !said.is_empty())) {
            miss(format!("the header has no `{label} …`"));
        }
    }
    let code = mask::lua(&script.text).code;
    for table in ["KEYS", "ARGV"] {
        let uses = Uses::of(&code, table);
        let said = Uses::said(&lines, table);
        for index in uses.numbers.iter().filter(|index| !said.covers(**index)) {
            miss(format!("the header has no line `{table}[{index}] …`"));
        }
        if uses.computed && !said.computed {
            miss(format!("the header has no line `{table}[i] …` for the indices it computes"));
        }
        for index in said.numbers.iter().filter(|index| !uses.numbers.contains(index)) {
            if !uses.computed {
                miss(format!("the header tells of {table}[{index}], which the script never uses"));
            }
        }
    }
    findings
}

/// Which elements of KEYS or ARGV a script uses, or its header tells of.
#[derive(Debug, Default)]
struct Uses {
    numbers: Vec<usize>,
    /// The first index of `[2..]`, from which on all are told of.
    from: Option<usize>,
    /// An index that is no number: a loop's, or the whole table.
    computed: bool,
}

impl Uses {
    fn of(code: &str, table: &str) -> Self {
        let mut uses = Self::default();
        for at in find_word(code, table) {
            uses.add(&code[at + table.len()..]);
        }
        uses
    }

    fn said(header: &[&str], table: &str) -> Self {
        let mut said = Self::default();
        for rest in header.iter().filter_map(|line| line.strip_prefix(table)) {
            if rest.starts_with('[') {
                said.add(rest);
            }
        }
        said
    }

    /// Reads the `[…]` that follows the table's name.
    fn add(&mut self, rest: &str) {
        let inner = rest.strip_prefix('[').and_then(|rest| rest.split(']').next());
        let inner = inner.unwrap_or_default().trim();
        match inner.parse() {
            Ok(number) if !self.numbers.contains(&number) => self.numbers.push(number),
            Ok(_) => {}
            Err(_) => {
                self.computed = true;
                if let Some((first, _)) = inner.split_once("..").or(inner.split_once('…')) {
                    self.from = first.trim().parse().ok();
                }
            }
        }
    }

    fn covers(&self, index: usize) -> bool {
        self.numbers.contains(&index) || self.from.is_some_and(|from| index >= from)
    }
}

fn body(script: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    let lines = script.text.lines().count();
    let limit = if script.text.starts_with(SHARED) { SHARED_LINES } else { LINES };
    if lines > limit {
        findings.push(script.at(
            1,
            "size",
            format!("{lines} lines: aim for 60, {limit} is the end"),
        ));
    }
    if script.text.starts_with("#!") {
        let what = "no shebang: without flags it refuses even deletes when memory is full";
        findings.push(script.at(1, "shebang", what));
    }
    let masked = mask::lua(&script.text);
    for word in ["loadstring", "load", "dofile"] {
        for at in find_word(&masked.code, word) {
            let what = format!("`{word}`: a script builds no code");
            findings.push(script.at(line_at(&masked.code, at), "built code", what));
        }
    }
    let mut times = 0;
    for at in find_word(&masked.code, "redis.call").chain(find_word(&masked.code, "redis.pcall")) {
        let line = line_at(&masked.code, at);
        let command = command(&masked.code[at..], &masked.uncommented[at..]);
        if !command.is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_alphabetic())) {
            let what = "a call's first argument is one plain string: the command";
            findings.push(script.at(line, "built command", what));
        }
        if command.is_some_and(|name| name.eq_ignore_ascii_case("TIME")) {
            times += 1;
            if times > 1 {
                let what = "time is read once, or two readings may disagree";
                findings.push(script.at(line, "time", what));
            }
        }
    }
    findings
}

/// The command of the `redis.call(…)` that begins here, if it is a plain string.
fn command<'a>(code: &str, uncommented: &'a str) -> Option<&'a str> {
    let open = code.find('(')?;
    let close = closing(code, open)?;
    let first = code[open..close].find(',').map_or(close, |comma| open + comma);
    let argument = uncommented[open + 1..first].trim();
    let text = argument.strip_prefix(['\'', '"'])?.strip_suffix(['\'', '"'])?;
    (!text.is_empty()).then_some(text)
}

fn registration(script: &Source, sources: &[Source], keys: &str) -> Vec<Finding> {
    let mut parts = script.path.splitn(3, '/');
    let (root, name) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let folder = format!("{root}/{name}/");
    let rust = sources.iter().filter(|source| source.path.starts_with(&folder) && source.is("rs"));
    let rust: Vec<_> = rust.map(|source| (source, mask::rust(&source.text))).collect();

    let declared = rust.iter().find_map(|(source, masked)| {
        let folder = source.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let relative = script.path.strip_prefix(folder)?.strip_prefix('/')?;
        declaration(&masked.uncommented, relative)
    });
    let Some(declared) = declared else {
        let what = "no `static NAME: Script = Script::new(\"…\", include_str!(…))` of its crate \
                    has this file";
        return vec![script.at(1, "unused", what)];
    };
    let mut findings = Vec::new();
    let file = script.path.rsplit('/').next().unwrap_or_default().trim_end_matches(".lua");
    let expected = format!("{}.{file}", name.trim_start_matches("coordinator-"));
    if declared.name != expected {
        let what = format!("its script is named `{}`, the file says `{expected}`", declared.name);
        findings.push(script.at(1, "name", what));
    }
    if !rust.iter().any(|(_, masked)| lists(&masked.code, declared.ident)) {
        let what = format!("`{}` is not in its crate's `SCRIPTS`", declared.ident);
        findings.push(script.at(1, "unlisted", what));
    }
    if find_word(keys, declared.name).next().is_none() {
        let what = format!("docs/keys.md does not speak of `{}`", declared.name);
        findings.push(script.at(1, "undocumented", what));
    }
    findings
}

/// `static IDENT: Script = Script::new("NAME", include_str!("FILE"))`.
struct Declared<'a> {
    ident: &'a str,
    name: &'a str,
    /// Included by `include_str!`, or by a macro that puts shared code before it. The script's own
    /// file is the last.
    files: Vec<&'a str>,
}

fn declarations(uncommented: &str) -> impl Iterator<Item = Declared<'_>> {
    // Not the lifetime.
    let items = find_word(uncommented, "static").filter(|&at| !uncommented[..at].ends_with('\''));
    items.filter_map(|at| {
        let item = uncommented[at..].split(';').next()?;
        let (left, right) = item.split_once('=')?;
        let (ident, kind) = left.strip_prefix("static")?.split_once(':')?;
        let mut strings = right.split('"').skip(1).step_by(2);
        let (name, files) = (strings.next()?, strings.collect());
        let ident = ident.trim();
        let script = kind.trim() == "Script" && right.contains("!(");
        script.then_some(Declared { ident, name, files })
    })
}

fn declaration<'a>(uncommented: &'a str, file: &str) -> Option<Declared<'a>> {
    declarations(uncommented).find(|declared| declared.files.last() == Some(&file))
}

/// Whether a `SCRIPTS` in this code lists the script.
fn lists(code: &str, ident: &str) -> bool {
    find_word(code, "SCRIPTS").any(|at| {
        let item = code[at..].split(';').next().unwrap_or_default();
        let list = item.split_once('=').map_or("", |(_, list)| list);
        find_word(list, ident).next().is_some()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "crates/coordinator-locks/src/redis/acquire.lua";
    const SCRIPT: &str = "\
-- Takes the lock if nobody has it.
-- KEYS[1]  the lock
-- KEYS[i]  its fellows
-- ARGV[1]  the token
-- Answer: {1, fence}
-- Safe to run twice: the token finds its own lock.
local now = redis.call('TIME') -- read once; redis.call('TIME') twice would not do
for i = 2, #KEYS do redis.call('DEL', KEYS[i]) end
return redis.call('SET', KEYS[1], ARGV[1] .. '')
";
    const ADAPTER: &str = "\
struct Script { name: &'static str, text: &'static str }
static ACQUIRE: Script = Script::new(\"locks.acquire\", include_str!(\"redis/acquire.lua\"));
pub static SCRIPTS: &[&Script] = &[&ACQUIRE];
";

    fn rules(script: &str, adapter: &str, keys: &str) -> Vec<&'static str> {
        let sources = [
            Source::planted(PATH, script),
            Source::planted("crates/coordinator-locks/src/redis.rs", adapter),
            Source::planted("docs/keys.md", keys),
        ];
        check(&sources).into_iter().map(|finding| finding.rule).collect()
    }

    fn script(script: &str) -> Vec<&'static str> {
        rules(script, ADAPTER, "`locks.acquire`")
    }

    #[test]
    fn a_clean_script_passes() {
        assert_eq!(script(SCRIPT), [""; 0]);
        let ranged = SCRIPT.replace("KEYS[i]", "KEYS[2..]");
        assert_eq!(script(&ranged), [""; 0]);
    }

    #[test]
    fn shared_code_takes_arguments_and_stands_before_a_script() {
        let in_folder = |folder: &str, text: &str, adapter: &str| {
            let folder = format!("crates/coordinator-locks/src/{folder}");
            let adapter = Source::planted(&format!("{folder}redis.rs"), adapter);
            let found =
                check(&[Source::planted(&format!("{folder}redis/queue.lua"), text), adapter]);
            found.into_iter().map(|finding| finding.rule).collect::<Vec<_>>()
        };
        let rules = |text: &str, adapter: &str| in_folder("", text, adapter);
        let before = "concat!(include_str!(\"redis/queue.lua\"), include_str!($file))";
        let text = "-- Shared: what two scripts do.\n-- Safe to run twice: it reads.\n\
            local function f(key) return key end\n";
        assert_eq!(rules(&text.replace("twice", "once"), before), ["header"]);
        assert_eq!(rules(text, before), [""; 0]);
        assert_eq!(in_folder("rwlock/", text, before), [""; 0]);
        assert_eq!(in_folder("rwlock/", text, ""), ["unused"]);
        assert_eq!(rules(text, ""), ["unused"]);
        assert_eq!(rules(text, &format!("// {before}")), ["unused"]);
        assert_eq!(rules(text, &before.replace("queue.lua", "line.lua")), ["unused"]);
        assert_eq!(rules(text, "include_str!(\"redis/queue.lua\")"), ["unused"]);
        assert_eq!(rules(&text.replace("f(key)", "f(KEYS)"), before), ["shared"]);
        assert_eq!(rules(&text.replace("key end", "ARGV[1] end"), before), ["shared"]);
    }

    #[test]
    fn shared_code_may_stand_behind_other_shared_code() {
        let path = "crates/coordinator-locks/src/redis/queue.lua";
        let text = "-- Shared: what two scripts do.\n-- Safe to run twice: it reads.\n";
        let rules = |adapter: &str, at: &str| {
            let sources = [
                Source::planted(path, text),
                Source::planted(PATH, SCRIPT),
                Source::planted(at, adapter),
                Source::planted("docs/keys.md", "`locks.acquire`"),
            ];
            check(&sources).into_iter().map(|finding| finding.rule).collect::<Vec<_>>()
        };
        let ours = "crates/coordinator-locks/src/redis.rs";
        let declared = |files: &str| {
            format!(
                "static ACQUIRE: Script = Script::new(\"locks.acquire\", {files});
                pub static SCRIPTS: &[&Script] = &[&ACQUIRE];"
            )
        };
        let included = |files: &[&str]| {
            let each = files.iter().map(|file| format!("include_str!(\"redis/{file}.lua\")"));
            declared(&format!("concat!({})", each.collect::<Vec<_>>().join(", ")))
        };
        let (second, third) =
            (included(&["queue", "acquire"]), included(&["a", "queue", "acquire"]));
        assert_eq!(rules(&second, ours), [""; 0]);
        assert_eq!(rules(&third, ours), [""; 0]);
        let by_macro = declared("both!(\"redis/queue.lua\", \"redis/acquire.lua\")");
        assert_eq!(rules(&by_macro, ours), [""; 0]);
        let in_macro = "macro_rules! both { ($file:literal) => {
            concat!(include_str!(\"redis/a.lua\"), include_str!(\"redis/queue.lua\"), \
            include_str!($file)) } }";
        let own = declared("both!(\"redis/acquire.lua\")");
        assert_eq!(rules(&format!("{in_macro}\n{own}"), ours), [""; 0]);
        // It is nowhere, it is not this crate that has it, or the script is not the last.
        assert_eq!(rules(&own, ours), ["unused"]);
        assert_eq!(rules(&third, "crates/coordinator-cache/src/redis.rs"), ["unused"; 2]);
        assert!(rules(&included(&["acquire", "queue"]), ours).contains(&"unused"));
    }

    #[test]
    fn each_part_of_the_header_is_missed() {
        for line in SCRIPT.lines().take(6) {
            let without = SCRIPT.replace(&format!("{line}\n"), "");
            assert_eq!(script(&without), ["header"], "without {line}");
        }
        assert_eq!(script(&SCRIPT.replace("Answer: {1, fence}", "Answer:")), ["header"]);
    }

    #[test]
    fn an_argument_that_is_told_of_and_not_used_is_found() {
        let told = SCRIPT.replace("-- ARGV[1]", "-- ARGV[2]  the ttl\n-- ARGV[1]");
        assert_eq!(script(&told), ["header"]);
    }

    #[test]
    fn a_shebang_and_91_lines_are_found() {
        assert!(script(&format!("#!lua\n{SCRIPT}")).contains(&"shebang"));
        let long = |lines: usize| format!("{SCRIPT}{}", "\n".repeat(lines - 9));
        assert_eq!(script(&long(90)), [""; 0]);
        assert_eq!(script(&long(91)), ["size"]);
    }

    #[test]
    fn built_code_and_built_commands_are_found() {
        let with = |line: &str| script(&format!("{SCRIPT}{line}\n"));
        assert_eq!(with("loadstring('x')()"), ["built code"]);
        assert_eq!(with("redis.call('S' .. 'ET', KEYS[1])"), ["built command"]);
        assert_eq!(with("redis.pcall(name, KEYS[1])"), ["built command"]);
        assert_eq!(with("redis.call('SET', KEYS[1], 'a' .. 'b')"), [""; 0]);
    }

    #[test]
    fn a_second_reading_of_time_is_found() {
        assert_eq!(script(&format!("{SCRIPT}redis.call(\"time\")\n")), ["time"]);
    }

    #[test]
    fn a_script_that_is_not_included_listed_named_or_described_is_found() {
        assert_eq!(rules(SCRIPT, "", "locks.acquire"), ["unused"]);
        let commented = format!("// {}", ADAPTER.replace('\n', " "));
        assert_eq!(rules(SCRIPT, &commented, "locks.acquire"), ["unused"]);
        let elsewhere = ADAPTER.replace("redis/acquire.lua", "redis/renew.lua");
        assert_eq!(rules(SCRIPT, &elsewhere, "locks.acquire"), ["unused"]);
        let unlisted = ADAPTER.replace("[&ACQUIRE]", "[&RENEW]");
        assert_eq!(rules(SCRIPT, &unlisted, "locks.acquire"), ["unlisted"]);
        let misnamed = ADAPTER.replace("locks.acquire", "locks.take");
        assert_eq!(rules(SCRIPT, &misnamed, "locks.take"), ["name"]);
        assert_eq!(rules(SCRIPT, ADAPTER, "locks.acquire_all"), ["undocumented"]);
    }
}
