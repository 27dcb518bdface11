//! What an image says of itself (names of entries, tags, media types), as messages show it: its beginning. An image is a
//! stranger's, and its messages end in logs, reasons of stopped tasks and on terminals.

/// Most characters shown of one text.
const MAX_CHARS: usize = 256;
/// Most texts shown of a list.
const MAX_ITEMS: usize = 20;

/// The beginning of a text; `…` stands for the rest.
pub(crate) fn text(raw: impl AsRef<[u8]>) -> String {
    let raw = raw.as_ref();
    // A character has four bytes at most: no more than these are looked at.
    let text = String::from_utf8_lossy(&raw[..raw.len().min(MAX_CHARS * 4 + 4)]);
    match text.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into_owned(),
    }
}

/// The beginning of a list, each text in it cut; the last says how many more there are.
pub(crate) fn list<T: AsRef<str>>(mut texts: impl Iterator<Item = T>) -> Vec<String> {
    let mut shown: Vec<String> = texts.by_ref().take(MAX_ITEMS).map(|item| text(item.as_ref())).collect();
    let more = texts.count();
    if more > 0 {
        shown.push(format!("and {more} more"));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_between_characters_and_lists_after_twenty() {
        let fits = "ä".repeat(MAX_CHARS);
        assert_eq!(text(&fits), fits);
        assert_eq!(text("💥".repeat(1 << 20)), format!("{}…", "💥".repeat(MAX_CHARS)));
        assert_eq!(text(b"a\xff"), "a\u{fffd}");
        assert_eq!(text([0xff; 1000]).chars().count(), MAX_CHARS + 1);
        let numbers = |count: usize| list((0..count).map(|number| number.to_string()));
        assert_eq!((numbers(0).len(), numbers(20).len(), numbers(21)[20].as_str()), (0, 20, "and 1 more"));
    }
}
