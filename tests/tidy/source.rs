//! A Rust source with its comments and literals blanked, and the few questions that the house rules ask of it.

use std::path::Path;

pub struct Source {
    /// Path below the package, with `/`.
    pub name: String,
    pub text: String,
    /// `text` with the inside of comments and literals replaced by spaces; lines stay where they were.
    blanked: String,
    /// For every line: does it belong to a `#[cfg(test)]` item?
    in_test: Vec<bool>,
}

/// One import, or one inline path, of the crate: `path` starts at the crate's root (`wire::Reader`).
pub struct Use {
    pub line: usize,
    pub path: String,
}

pub struct Function {
    pub name: String,
    pub line: usize,
    pub lines: usize,
}

impl Source {
    pub fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).expect("a source file is readable UTF-8");
        let name = path
            .strip_prefix(env!("CARGO_MANIFEST_DIR"))
            .unwrap_or(path)
            .to_string_lossy()
            .replace('\\', "/");
        Self::new(name, text)
    }

    pub fn new(name: String, text: String) -> Self {
        let blanked = blank(&text);
        let in_test = test_lines(&blanked);
        Self { name, text, blanked, in_test }
    }

    /// The room: `src/wire/cursor.rs` and `src/wire.rs` are both `wire`. None for lib.rs and the binaries.
    pub fn room(&self) -> Option<&str> {
        let inner = self.name.strip_prefix("src/")?;
        let first = inner.split('/').next()?;
        let room = first.strip_suffix(".rs").unwrap_or(first);
        (!matches!(room, "lib" | "bin")).then_some(room)
    }

    /// A file that is compiled for tests only, by its name.
    pub fn is_test(&self) -> bool {
        self.name.ends_with("tests.rs")
            || self.name.contains("/tests/")
            || self.name.ends_with("test_support.rs")
    }

    /// Lines with comments and literals blanked, counted from 1.
    pub fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.blanked.lines().enumerate().map(|(index, line)| (index + 1, line))
    }

    /// The same, without `#[cfg(test)]` items.
    pub fn product_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.lines().filter(|(number, _)| !self.in_test[number - 1])
    }

    /// Every path of the crate that this file names: `crate::a::b`, `use crate::{a::b, c}`, and `super::` chains that
    /// climb to the crate's root and then name a room.
    pub fn uses(&self, is_room: impl Fn(&str) -> bool) -> Vec<Use> {
        let mut found = Vec::new();
        for (at, _) in self.blanked.match_indices("crate::") {
            if at > 0 && is_ident(self.blanked.as_bytes()[at - 1]) {
                continue;
            }
            let line = self.line_of(at);
            for path in expand(&self.blanked[at + "crate::".len()..]) {
                found.push(Use { line, path });
            }
        }
        let depth = self.name.trim_start_matches("src/").trim_end_matches("/mod.rs").split('/').count();
        for (at, _) in self.blanked.match_indices("super::") {
            let before = &self.blanked[..at];
            if before.ends_with("super::") || before.ends_with(|c: char| c.is_alphanumeric() || c == '_') {
                continue;
            }
            let mut rest = &self.blanked[at..];
            let mut climbed = 0;
            while let Some(tail) = rest.strip_prefix("super::") {
                rest = tail;
                climbed += 1;
            }
            if climbed >= depth {
                let line = self.line_of(at);
                let rooms =
                    expand(rest).into_iter().filter(|path| is_room(path.split("::").next().unwrap_or(path)));
                found.extend(rooms.map(|path| Use { line, path }));
            }
        }
        found
    }

    /// Functions outside tests, with the lines from `fn` to the closing brace.
    pub fn functions(&self) -> Vec<Function> {
        let bytes = self.blanked.as_bytes();
        let mut found = Vec::new();
        for (at, _) in self.blanked.match_indices("fn ") {
            let line = self.line_of(at);
            if (at > 0 && is_ident(bytes[at - 1])) || self.in_test[line - 1] {
                continue;
            }
            let name: String =
                self.blanked[at + 3..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if name.is_empty() {
                continue;
            }
            let Some(open) = body_start(bytes, at) else { continue };
            let close = matching_brace(bytes, open);
            found.push(Function { name, line, lines: self.line_of(close) - line + 1 });
        }
        found
    }

    /// Lines of `if let … && …` and `… && let …`.
    pub fn let_chains(&self) -> Vec<usize> {
        let later = self.blanked.match_indices("&& let ").map(|(at, _)| at);
        let first = self.blanked.match_indices("if let ").map(|(at, _)| at).filter(|at| self.is_chained(*at));
        let mut lines: Vec<usize> = later.chain(first).map(|at| self.line_of(at)).collect();
        lines.sort_unstable();
        lines.dedup();
        lines
    }

    /// Is there a `&&` outside all brackets between the `=` of this `if let` and the brace of its block?
    fn is_chained(&self, at: usize) -> bool {
        let bytes = self.blanked.as_bytes();
        let (mut depth, mut bound) = (0usize, false);
        for (index, byte) in bytes.iter().enumerate().skip(at) {
            match byte {
                b'{' if bound && depth == 0 => return false,
                b'(' | b'[' | b'{' => depth += 1,
                b')' | b']' | b'}' => depth = depth.saturating_sub(1),
                b'=' if depth == 0 => bound = true,
                b'&' if bound && depth == 0 && bytes.get(index + 1) == Some(&b'&') => return true,
                _ => {}
            }
        }
        false
    }

    fn line_of(&self, at: usize) -> usize {
        self.blanked.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1
    }
}

fn is_ident(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Whether `line` has `word` at a place where no identifier runs into it. (`std::` is not in `mystd::`.)
pub fn contains_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let bytes = line.as_bytes();
        let starts = !is_ident(word.as_bytes()[0]) || at == 0 || !is_ident(bytes[at - 1]);
        let last = word.as_bytes()[word.len() - 1];
        let end = at + word.len();
        let ends = !is_ident(last) || end == bytes.len() || !is_ident(bytes[end]);
        starts && ends
    })
}

/// `a::b` gives itself; `{a::b, c::{d, e}}` gives `a::b`, `c::d`, `c::e`.
fn expand(text: &str) -> Vec<String> {
    let text = text.trim_start();
    if let Some(group) = text.strip_prefix('{') {
        return split_group(group)
            .iter()
            .flat_map(|item| expand(item))
            .filter(|path| !path.is_empty())
            .collect();
    }
    let name: String = text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    match text[name.len()..].strip_prefix("::") {
        Some(rest) if rest.starts_with('{') || rest.starts_with(|c: char| c.is_alphabetic() || c == '_') => {
            expand(rest).into_iter().map(|tail| format!("{name}::{tail}")).collect()
        }
        _ => vec![name],
    }
}

/// The items of a brace group, of which the opening brace was taken; text after the closing brace is ignored.
fn split_group(text: &str) -> Vec<&str> {
    let mut items = Vec::new();
    let (mut depth, mut start) = (0, 0);
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                items.push(&text[start..at]);
                return items;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                items.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    items
}

/// The brace that opens the body of the function at `at`; None for a declaration without one.
fn body_start(bytes: &[u8], at: usize) -> Option<usize> {
    let mut depth = 0usize;
    for (index, byte) in bytes.iter().enumerate().skip(at) {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth = depth.saturating_sub(1),
            b';' if depth == 0 => return None,
            b'{' if depth == 0 => return Some(index),
            _ => {}
        }
    }
    None
}

fn matching_brace(bytes: &[u8], open: usize) -> usize {
    let mut depth = 0usize;
    for (index, byte) in bytes.iter().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' => {
                depth -= 1;
                if depth == 0 {
                    return index;
                }
            }
            _ => {}
        }
    }
    bytes.len() - 1
}

fn test_lines(blanked: &str) -> Vec<bool> {
    let mut marks = vec![false; blanked.lines().count()];
    let bytes = blanked.as_bytes();
    for attribute in ["#[cfg(test)]", "#[test]"] {
        for (at, _) in blanked.match_indices(attribute) {
            let end = body_start(bytes, at + attribute.len()).map_or_else(
                || at + blanked[at..].find(';').unwrap_or(0),
                |open| matching_brace(bytes, open),
            );
            let first = bytes[..at].iter().filter(|byte| **byte == b'\n').count();
            let last = bytes[..end].iter().filter(|byte| **byte == b'\n').count();
            marks[first..=last].fill(true);
        }
    }
    marks
}

/// Replaces comments and the inside of string, byte and character literals by spaces; newlines stay.
pub fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes[at..].starts_with(b"//") => text[at..].find('\n').map_or(bytes.len(), |n| at + n),
            b'/' if bytes[at..].starts_with(b"/*") => block_comment_end(bytes, at),
            b'"' => string_end(bytes, at + 1),
            b'r' if (at == 0 || !is_ident(bytes[at - 1]) || bytes[at - 1] == b'b') => {
                raw_string_end(bytes, at)
            }
            b'\'' => char_end(bytes, at),
            _ => at + 1,
        };
        if end > at + 1 {
            out[at..end].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
        }
        at = end;
    }
    String::from_utf8(out).expect("whole literals were blanked, so what is left is UTF-8")
}

fn block_comment_end(bytes: &[u8], start: usize) -> usize {
    let mut depth = 0;
    let mut at = start;
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if bytes[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    bytes.len()
}

fn string_end(bytes: &[u8], mut at: usize) -> usize {
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// `r"…"` and `r#"…"#`; an `r` that starts neither is one plain byte.
fn raw_string_end(bytes: &[u8], start: usize) -> usize {
    let hashes = bytes[start + 1..].iter().take_while(|byte| **byte == b'#').count();
    if bytes.get(start + 1 + hashes) != Some(&b'"') {
        return start + 1;
    }
    let mut close = vec![b'"'];
    close.resize(hashes + 1, b'#');
    let body = start + 2 + hashes;
    bytes[body..]
        .windows(close.len())
        .position(|w| w == close)
        .map_or(bytes.len(), |n| body + n + close.len())
}

/// `'x'`, `'\n'`, `'é'`; a lifetime is one plain byte.
fn char_end(bytes: &[u8], start: usize) -> usize {
    if bytes.get(start + 1) == Some(&b'\\') {
        return bytes[start + 3..].iter().position(|b| *b == b'\'').map_or(start + 1, |n| start + 3 + n + 1);
    }
    let next = bytes.get(start + 1).copied().unwrap_or(0);
    let width = match next {
        0..=0x7f => 1,
        0xc0..=0xdf => 2,
        0xe0..=0xef => 3,
        _ => 4,
    };
    if bytes.get(start + 1 + width) == Some(&b'\'') { start + 2 + width } else { start + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_and_comments_are_blanked() {
        let text = "let a = \"unsafe\\\" {\"; // dbg!\nlet b = 'x'; /* { /* */ } */ let c: &'a str = r#\"}\"#; fn f() {}";
        let blanked = blank(text);
        assert_eq!(blanked.len(), text.len());
        for gone in ["unsafe", "dbg!", "'x'"] {
            assert!(!blanked.contains(gone), "{blanked}");
        }
        assert!(blanked.contains("&'a str") && blanked.contains("fn f() {}"));
        assert_eq!(blanked.matches('{').count(), 1);
    }

    #[test]
    fn groups_and_climbing_paths_are_found() {
        let text = "use crate::{wire::{Reader, Short}, units};\nfn f() { crate::scsi::go(); }\nuse super::super::engine::Ring;\n";
        let source = Source::new("src/wire/cursor.rs".into(), text.into());
        let paths: Vec<_> =
            source.uses(|name| name == "engine").into_iter().map(|u| (u.line, u.path)).collect();
        let expected =
            [(1, "wire::Reader"), (1, "wire::Short"), (1, "units"), (2, "scsi::go"), (3, "engine::Ring")];
        assert_eq!(paths, expected.map(|(line, path)| (line, path.to_string())));
    }

    #[test]
    fn functions_are_measured_and_tests_are_left_out() {
        let text = "fn a(x: [u8; 3])\nwhere\n    u8: Copy,\n{\n    if x { }\n}\n#[cfg(test)]\nmod tests {\n    fn b() {\n    }\n}\n";
        let source = Source::new("src/wire/x.rs".into(), text.into());
        let found: Vec<_> = source.functions().into_iter().map(|f| (f.name, f.line, f.lines)).collect();
        assert_eq!(found, [("a".to_string(), 1, 6)]);
        assert_eq!(source.product_lines().count(), 6);
    }

    #[test]
    fn let_chains_are_found() {
        let text = "if let Some(x) = f(a && b) {\n}\nif let A { b, .. } = c\n    && d {\n}\nif a\n    && let Some(x) = y {\n}\n";
        let source = Source::new("src/wire/x.rs".into(), text.into());
        assert_eq!(source.let_chains(), [3, 7]);
    }

    #[test]
    fn words_are_whole() {
        assert!(contains_word("use std::io;", "std::") && !contains_word("mystd::x", "std::"));
        assert!(contains_word("x.unwrap();", ".unwrap()") && !contains_word("x.unwrap_or(1)", ".unwrap()"));
        assert!(!contains_word("my_HashMapper", "HashMap"));
    }
}
