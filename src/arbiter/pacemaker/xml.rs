//! As much XML as Pacemaker's tools print: tags with attributes. Text between tags, comments and declarations are passed
//! over; nesting is the reader's to follow.

/// Longest output that is looked at.
pub const TEXT_MAX: usize = 4 << 20;

/// A start tag (or an empty element).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tag<'a> {
    pub name: &'a str,
    attributes: &'a str,
}

impl Tag<'_> {
    /// The attribute's value, with entities resolved.
    pub fn get(&self, name: &str) -> Option<String> {
        let mut rest = self.attributes;
        loop {
            let (key, after) = rest.split_once('=')?;
            let after = after.trim_start();
            let quote = after.chars().next().filter(|c| matches!(c, '"' | '\''))?;
            let (value, after) = after[1..].split_once(quote)?;
            if key.trim() == name {
                return resolve(value);
            }
            rest = after;
        }
    }

    pub fn is(&self, name: &str, value: &str) -> bool {
        self.get(name).as_deref() == Some(value)
    }
}

/// All start tags, in their order. `None` where the text breaks off inside one.
pub fn tags(text: &str) -> Option<Vec<Tag<'_>>> {
    let mut found = Vec::new();
    let mut rest = text.get(..text.len().min(TEXT_MAX)).filter(|whole| whole.len() == text.len())?;
    while let Some(at) = rest.find('<') {
        rest = &rest[at + 1..];
        if let Some(comment) = rest.strip_prefix("!--") {
            rest = &comment[comment.find("-->")? + 3..];
            continue;
        }
        let end = tag_end(rest)?;
        let (inside, after) = (&rest[..end], &rest[end + 1..]);
        rest = after;
        if inside.starts_with(['/', '?', '!']) {
            continue;
        }
        let inside = inside.strip_suffix('/').unwrap_or(inside);
        let (name, attributes) = inside.split_once(char::is_whitespace).unwrap_or((inside, ""));
        found.push(Tag { name, attributes });
    }
    Some(found)
}

/// Where the tag's `>` is, which may also stand inside quotes.
fn tag_end(text: &str) -> Option<usize> {
    let mut quote = None;
    text.char_indices().find_map(|(at, c)| {
        match (quote, c) {
            (None, '>') => return Some(at),
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), c) if open == c => quote = None,
            _ => {}
        }
        None
    })
}

fn resolve(value: &str) -> Option<String> {
    let mut text = String::with_capacity(value.len());
    let mut rest = value;
    while let Some((before, after)) = rest.split_once('&') {
        let (entity, after) = after.split_once(';')?;
        text.push_str(before);
        text.push(match entity {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "quot" => '"',
            "apos" => '\'',
            other => char::from_u32(other.strip_prefix('#')?.parse().ok()?)?,
        });
        rest = after;
    }
    text.push_str(rest);
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_and_their_attributes_are_found() {
        let text = "<?xml version=\"1.0\"?>\n<a><!-- <no b=\"1\"/> --><b x=\"1\" y='2 &lt; 3' />\
                    text<c z=\"a>b\"></c></a>";
        let tags = tags(text).expect("whole");
        assert_eq!(tags.iter().map(|tag| tag.name).collect::<Vec<_>>(), ["a", "b", "c"]);
        assert!(tags[1].is("x", "1") && tags[1].is("y", "2 < 3") && tags[2].is("z", "a>b"));
        assert_eq!((tags[1].get("z"), tags[0].get("x")), (None, None));
        assert_eq!(resolve("&quot;&#65;&amp;&apos;&gt;").as_deref(), Some("\"A&'>"));
    }

    #[test]
    fn what_breaks_off_is_nothing() {
        for broken in ["<a", "<a b=\"", "<!-- a", "<a b=\"1"] {
            assert_eq!(tags(broken), None, "{broken}");
        }
        let broken = tags("<a b=1 c=\"2\"/>").expect("a tag");
        assert_eq!(broken[0].get("c"), None);
        assert_eq!(resolve("&nbsp;"), None);
        assert_eq!(resolve("&amp"), None);
        assert_eq!(tags(&" ".repeat(TEXT_MAX + 1)), None);
    }
}
