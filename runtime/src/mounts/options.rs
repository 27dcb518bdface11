//! The `options` of an OCI mount (config-linux, "mount options"), sorted into what the mount API wants. Pure.

use std::ffi::CString;

use nix::errno::Errno;

use super::super::init::failure::{Context, Failure, Step};
use crate::sys::mount_api as api;

/// Attributes to set and to clear.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// `ATTR_*` bits to set.
    pub set: u64,
    /// `ATTR_*` bits to clear.
    pub clear: u64,
}

impl Change {
    fn apply(&mut self, change: Change) {
        self.set = (self.set & !change.clear) | change.set;
        self.clear = (self.clear & !change.set) | change.clear;
        // The atime values exclude each other: the kernel wants the whole mask cleared before one is set.
        if change.clear & api::ATTR_ATIME_MASK != 0 {
            self.clear |= api::ATTR_ATIME_MASK;
        }
    }

    /// Nothing to do.
    pub fn is_empty(self) -> bool {
        self == Change::default()
    }
}

/// Options of one mount.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Options {
    /// `Some(recursive)` for `bind` and `rbind`.
    pub bind: Option<bool>,
    /// For the mount itself.
    pub attributes: Change,
    /// For the mount and all below it (`rro`, `rnosuid`, …).
    pub recursive_attributes: Change,
    /// MS_* propagation and whether it is recursive, in the order given.
    pub propagation: Vec<(u64, bool)>,
    /// `Some(recursive)` for `idmap` and `ridmap`.
    pub id_map: Option<bool>,
    /// `tmpcopyup`: a new tmpfs begins with what the image has in its place.
    pub copy_up: bool,
    /// Parameters of the file system.
    pub parameters: Vec<(CString, Option<CString>)>,
}

impl Options {
    /// Sorts `options`. Fails on a NUL byte only: what is unknown is taken as a parameter of the file system.
    pub fn parse(options: &[String]) -> Result<Options, Failure> {
        let mut parsed = Options::default();
        for option in options {
            if let Some(change) = attribute(option) {
                parsed.attributes.apply(change);
            } else if let Some(change) = option.strip_prefix('r').and_then(attribute) {
                parsed.recursive_attributes.apply(change);
            } else if let Some(propagation) = propagation(option) {
                parsed.propagation.push(propagation);
            } else {
                parsed.other(option)?;
            }
        }
        Ok(parsed)
    }

    fn other(&mut self, option: &str) -> Result<(), Failure> {
        match option {
            "bind" => self.bind = Some(self.bind.unwrap_or(false)),
            "rbind" => self.bind = Some(true),
            "idmap" => self.id_map = Some(self.id_map.unwrap_or(false)),
            "ridmap" => self.id_map = Some(true),
            "tmpcopyup" => self.copy_up = true,
            // Of a mount that is there already, which no container has.
            "remount" => return Err(Errno::ENOTSUP).on(Step::UnknownOption, option),
            default if DEFAULTS.contains(&default) => {}
            parameter => {
                let (key, value) = match parameter.split_once('=') {
                    Some((key, value)) => (key, Some(value)),
                    None => (parameter, None),
                };
                let text = |text: &str| CString::new(text).on(Step::UnknownOption, parameter);
                self.parameters.push((text(key)?, value.map(text).transpose()?));
            }
        }
        Ok(())
    }
}

/// Words for attributes: bits to set, bits to clear. The atime values exclude each other.
const ATTRIBUTES: [(&str, u64, u64); 18] = [
    ("ro", api::ATTR_RDONLY, 0),
    ("rw", 0, api::ATTR_RDONLY),
    ("nosuid", api::ATTR_NOSUID, 0),
    ("suid", 0, api::ATTR_NOSUID),
    ("nodev", api::ATTR_NODEV, 0),
    ("dev", 0, api::ATTR_NODEV),
    ("noexec", api::ATTR_NOEXEC, 0),
    ("exec", 0, api::ATTR_NOEXEC),
    ("nodiratime", api::ATTR_NODIRATIME, 0),
    ("diratime", 0, api::ATTR_NODIRATIME),
    ("nosymfollow", api::ATTR_NOSYMFOLLOW, 0),
    ("symfollow", 0, api::ATTR_NOSYMFOLLOW),
    ("noatime", api::ATTR_NOATIME, api::ATTR_ATIME_MASK),
    ("strictatime", api::ATTR_STRICTATIME, api::ATTR_ATIME_MASK),
    ("relatime", 0, api::ATTR_ATIME_MASK),
    ("atime", 0, api::ATTR_ATIME_MASK),
    // Back to the kernel's own, which is relatime: there is none of neither.
    ("norelatime", 0, api::ATTR_ATIME_MASK),
    ("nostrictatime", 0, api::ATTR_ATIME_MASK),
];
/// The kernel's defaults, spelled out.
const DEFAULTS: [&str; 7] = ["defaults", "async", "nomand", "loud", "silent", "nolazytime", "noiversion"];
const PROPAGATIONS: [(&str, u64); 4] = [
    ("private", libc::MS_PRIVATE),
    ("slave", libc::MS_SLAVE),
    ("shared", libc::MS_SHARED),
    ("unbindable", libc::MS_UNBINDABLE),
];

/// Every word that is not passed on to a file system.
pub fn known() -> Vec<String> {
    let words = ATTRIBUTES.iter().map(|(word, ..)| *word).chain(PROPAGATIONS.map(|(word, _)| word));
    let recursive = words.clone().map(|word| format!("r{word}"));
    let others = ["bind", "rbind", "idmap", "ridmap", "tmpcopyup"].into_iter().chain(DEFAULTS);
    let mut known: Vec<String> = words.chain(others).map(str::to_owned).chain(recursive).collect();
    known.sort();
    known
}

fn attribute(option: &str) -> Option<Change> {
    let (_, set, clear) = ATTRIBUTES.iter().find(|(word, ..)| *word == option)?;
    Some(Change { set: *set, clear: *clear })
}

/// MS_* value and whether it is recursive, for the words of mount(8); also those of `linux.rootfsPropagation`.
pub fn propagation(word: &str) -> Option<(u64, bool)> {
    let (word, recursive) = match word.strip_prefix('r') {
        Some(word) => (word, true),
        None => (word, false),
    };
    let (_, value) = PROPAGATIONS.iter().find(|(name, _)| *name == word)?;
    Some((*value, recursive))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[&str]) -> Options {
        Options::parse(&options.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn words_go_where_they_belong() {
        let options = parse(&["rbind", "ro", "nosuid", "rslave", "rnoexec", "ridmap", "size=64k", "newinstance"]);
        assert_eq!(options.bind, Some(true));
        assert_eq!(options.attributes.set, api::ATTR_RDONLY | api::ATTR_NOSUID);
        assert_eq!(options.recursive_attributes.set, api::ATTR_NOEXEC);
        assert_eq!(options.propagation, [(libc::MS_SLAVE, true)]);
        assert_eq!(options.id_map, Some(true));
        assert_eq!(options.parameters, [(c"size".into(), Some(c"64k".into())), (c"newinstance".into(), None)]);
    }

    #[test]
    fn what_is_known_never_reaches_a_file_system() {
        let known = known();
        assert!(known.contains(&"rro".to_owned()) && known.contains(&"rslave".to_owned()));
        for word in known {
            assert_eq!(parse(&[&word]).parameters, [], "{word}");
        }
    }

    #[test]
    fn a_remount_is_refused() {
        assert!(Options::parse(&["remount".to_owned()]).unwrap_err().to_string().contains("remount"));
    }

    #[test]
    fn the_last_word_wins() {
        let options = parse(&["ro", "rw", "noatime", "relatime"]);
        assert_eq!(options.attributes, Change { set: 0, clear: api::ATTR_RDONLY | api::ATTR_ATIME_MASK });
    }

    #[test]
    fn relatime_is_not_recursive_elatime_and_rro_is_recursive_ro() {
        assert!(parse(&["relatime"]).recursive_attributes.is_empty());
        assert_eq!(parse(&["rro"]).recursive_attributes.set, api::ATTR_RDONLY);
    }
}
