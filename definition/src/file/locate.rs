//! Where each member stands in a JSON text. The text is known to be JSON: this only counts.

use std::collections::BTreeMap;

/// Line and column of every member by its path.
pub(super) struct Positions {
    by_path: BTreeMap<String, (usize, usize)>,
    duplicates: Vec<(String, (usize, usize))>,
}

impl Positions {
    /// Scans `text`, which serde_json has accepted.
    pub(super) fn of(text: &str) -> Positions {
        let mut scanner = Scanner {
            rest: text.chars().peekable(),
            line: 1,
            column: 1,
            found: Positions { by_path: BTreeMap::new(), duplicates: Vec::new() },
        };
        scanner.value(&mut String::new());
        scanner.found
    }

    pub(super) fn get(&self, path: &str) -> Option<(usize, usize)> {
        self.by_path.get(path).copied()
    }

    /// Members that their object has already, with the place of the second.
    pub(super) fn duplicates(self) -> impl Iterator<Item = (String, (usize, usize))> {
        self.duplicates.into_iter()
    }
}

struct Scanner<'a> {
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    line: usize,
    column: usize,
    found: Positions,
}

impl Scanner<'_> {
    fn next(&mut self) -> Option<char> {
        let next = self.rest.next()?;
        if next == '\n' {
            (self.line, self.column) = (self.line + 1, 1);
        } else {
            self.column += 1;
        }
        Some(next)
    }

    fn skip_space(&mut self) -> Option<char> {
        while self.rest.peek().is_some_and(|c| c.is_ascii_whitespace()) {
            self.next();
        }
        self.rest.peek().copied()
    }

    /// A value at `path`. Depth is bounded: serde_json refuses more than 128 levels.
    fn value(&mut self, path: &mut String) {
        match self.skip_space() {
            Some('{') => self.object(path),
            Some('[') => self.array(path),
            Some('"') => drop(self.string()),
            _ => {
                while self.rest.peek().is_some_and(|c| !matches!(c, ',' | '}' | ']') && !c.is_ascii_whitespace()) {
                    self.next();
                }
            }
        }
    }

    fn object(&mut self, path: &mut String) {
        self.next();
        while let Some(next) = self.skip_space() {
            match next {
                '"' => {
                    let position = (self.line, self.column);
                    let key = self.string();
                    let end = path.len();
                    if !path.is_empty() {
                        path.push('.');
                    }
                    path.push_str(&key);
                    if self.found.by_path.insert(path.clone(), position).is_some() {
                        self.found.duplicates.push((path.clone(), position));
                    }
                    self.skip_space();
                    self.next(); // the colon
                    self.value(path);
                    path.truncate(end);
                }
                ',' => drop(self.next()),
                _ => {
                    self.next();
                    return;
                }
            }
        }
    }

    fn array(&mut self, path: &mut String) {
        self.next();
        let mut index = 0;
        while let Some(next) = self.skip_space() {
            match next {
                ']' => {
                    self.next();
                    return;
                }
                ',' => drop(self.next()),
                _ => {
                    let end = path.len();
                    path.push_str(&format!("[{index}]"));
                    self.found.by_path.insert(path.clone(), (self.line, self.column));
                    self.value(path);
                    path.truncate(end);
                    index += 1;
                }
            }
        }
    }

    /// A string's text; escapes are kept as written but for the quote, which is enough to tell keys apart.
    fn string(&mut self) -> String {
        let mut text = String::new();
        self.next();
        while let Some(c) = self.next() {
            match c {
                '"' => break,
                '\\' => text.extend(self.next()),
                c => text.push(c),
            }
        }
        text
    }
}
