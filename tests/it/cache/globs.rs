//! Characters that patterns give a meaning to, in keys, namespaces, tags and patterns.

use super::Stage;
use coordinator_cache::{Cache, Entry, Invalidated};
use coordinator_core::ErrorKind;
use coordinator_harness::rng;
use rand::RngExt as _;

/// Each would be taken for others of these by whoever forgets to escape it somewhere.
const NAMES: [&str; 19] = [
    "a", "b", "ab", "abc", "a*", "a?", "a*c", "a?c", "[ab]", "[a-z]", "[^a]", "[", "a\\", "a\\*",
    "\\", "*", "?", "**", "a:*",
];

/// What a pattern says, as slowly as it is said.
fn says(pattern: &[char], text: &[char]) -> bool {
    match (pattern, text) {
        ([], _) => text.is_empty(),
        (['*', rest @ ..], _) => (0..=text.len()).any(|at| says(rest, &text[at..])),
        (['?', rest @ ..], [_, text @ ..]) => says(rest, text),
        (['\\', char, rest @ ..] | [char, rest @ ..], [first, text @ ..]) => {
            char == first && says(rest, text)
        }
        _ => false,
    }
}

/// The pattern of this name alone.
fn literal(name: &str) -> String {
    let escape =
        |char: char| if "*?\\".contains(char) { format!("\\{char}") } else { char.to_string() };
    name.chars().map(escape).collect()
}

async fn stored(cache: &Cache<String>) {
    let values = NAMES.map(str::to_owned);
    let values: Vec<_> = NAMES.into_iter().zip(&values).collect();
    for stored in cache.set_many(&values).await {
        stored.expect("stored");
    }
}

/// The keys that are there.
async fn there(cache: &Cache<String>) -> Vec<&'static str> {
    let read = cache.get_many(&NAMES).await.expect("an answer");
    let found = NAMES.into_iter().zip(read);
    found.filter_map(|(name, hit)| (*hit? == name).then_some(name)).collect()
}

pub(super) async fn patterns_mean_what_they_say_whatever_keys_hold(stage: Stage) {
    let cache = stage.cache().build().expect("a cache");
    let mut patterns: Vec<String> = NAMES.into_iter().map(literal).collect();
    patterns.extend(NAMES.map(str::to_owned));
    let mut random = rng();
    for _ in 0..40 {
        let length = random.random_range(1..6);
        let chars = ['a', 'b', 'c', '*', '?', '\\', '[', ']', '^', '-', ':'];
        let draw = (0..length).map(|_| chars[random.random_range(0..chars.len())]);
        patterns.push(draw.collect());
    }
    for pattern in patterns {
        stored(&cache).await;
        let chars: Vec<char> = pattern.chars().collect();
        // A backslash with nothing to escape is no pattern.
        let open = chars.iter().rev().take_while(|char| **char == '\\').count() % 2 == 1;
        let ended = cache.invalidate_pattern(&pattern).await;
        if open {
            assert_eq!(ended.expect_err("it cannot be").kind(), ErrorKind::Misuse, "{pattern}");
            continue;
        }
        let meant = |name: &&str| says(&chars, &name.chars().collect::<Vec<_>>());
        let left: Vec<_> = NAMES.into_iter().filter(|name| !meant(name)).collect();
        let ended = usize::try_from(ended.expect("an answer")).expect("few");
        assert_eq!((ended, there(&cache).await), (NAMES.len() - left.len(), left), "{pattern}");
    }
    for name in NAMES {
        assert!(says(
            &literal(name).chars().collect::<Vec<_>>(),
            &name.chars().collect::<Vec<_>>()
        ));
    }
}

pub(super) async fn namespaces_and_tags_are_ended_alone_whatever_they_hold(stage: Stage) {
    let caches = NAMES.map(|name| {
        let of = if name.len() % 2 == 0 { &stage.caches } else { &stage.peer };
        of.cache::<String>(name).with_early_refresh(0.0).build().expect("a cache")
    });
    for cache in &caches {
        stored(cache).await;
    }
    for (number, cache) in caches.iter().enumerate() {
        assert_eq!(cache.clear().await.expect("an answer"), NAMES.len() as u64, "{number}");
        for (other, cache) in caches.iter().enumerate() {
            let left = if other <= number { 0 } else { NAMES.len() };
            assert_eq!(there(cache).await.len(), left, "{other} after {number}");
        }
    }
    let cache = stage.cache().build().expect("a cache");
    for name in NAMES {
        let entry = Entry::new().tags([name]);
        cache.set_with(name, &name.to_owned(), entry).await.expect("stored");
    }
    for (number, name) in NAMES.into_iter().enumerate() {
        let ended = stage.caches.invalidate_tag(name).await.expect("an answer");
        assert_eq!(ended, Invalidated::Done(1));
        assert_eq!(there(&cache).await, NAMES[number + 1..], "{name}");
    }
}
