//! The keys that end an attachment, written as docker writes them.

/// A sequence of keys, and how much of it was typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Keys {
    keys: Vec<u8>,
    typed: usize,
}

/// Reads `ctrl-p,ctrl-q`, `a,b`, `ctrl-\`: single characters, or ctrl- and one of a-z @ [ \ ] ^ _.
pub(crate) fn parse(text: &str) -> Result<Keys, String> {
    let key = |word: &str| {
        let control = |letter: u8| match letter {
            b'a'..=b'z' => Some(letter - b'a' + 1),
            b'@' => Some(0),
            b'[' | b'\\' | b']' | b'^' | b'_' => Some(letter - b'@'),
            _ => None,
        };
        match (word.as_bytes(), word.strip_prefix("ctrl-").map(str::as_bytes)) {
            ([one], _) => Some(*one),
            (_, Some([letter])) => control(*letter),
            _ => None,
        }
        .ok_or_else(|| format!("{word:?} is no key: write a character, or ctrl- and one of a-z @ [ \\ ] ^ _"))
    };
    Ok(Keys { keys: text.split(',').map(key).collect::<Result<_, _>>()?, typed: 0 })
}

impl Keys {
    /// What of `bytes` is to be passed on, and whether the sequence is complete: what comes after it is not passed on.
    /// Its beginning is kept back until it is clear that it is none.
    pub(super) fn filter(&mut self, bytes: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(bytes.len());
        for byte in bytes {
            if *byte != self.keys[self.typed] {
                passed.extend(&self.keys[..self.typed]);
                self.typed = 0;
            }
            if *byte == self.keys[self.typed] {
                self.typed += 1;
            } else {
                passed.push(*byte);
            }
            if self.typed == self.keys.len() {
                return (passed, true);
            }
        }
        (passed, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_written_as_dockers() {
        assert_eq!(parse("ctrl-p,ctrl-q").unwrap().keys, [16, 17]);
        assert_eq!(parse("a,ctrl-\\,ctrl-@").unwrap().keys, [b'a', 28, 0]);
        for wrong in ["", "ctrl-", "ctrl-1", "abc", "a,,b", "ä"] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn only_the_whole_sequence_detaches_and_nothing_is_lost() {
        let mut keys = parse("ctrl-p,ctrl-q").unwrap();
        assert_eq!(keys.filter(b"ab\x10"), (b"ab".to_vec(), false));
        assert_eq!(keys.filter(b"c"), (b"\x10c".to_vec(), false));
        assert_eq!(keys.filter(b"\x10\x10"), (b"\x10".to_vec(), false));
        assert_eq!(keys.filter(b"\x11d"), (Vec::new(), true));
    }
}
