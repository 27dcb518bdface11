//! Who a process runs as: OCI's `user` object, or, as an extension, `user.username` = `user[:group]` looked up in the
//! container's own /etc/passwd and /etc/group with docker's rules.

use std::path::Path;

use nix::errno::Errno;
use oci_spec::runtime::User;

use crate::init::failure::{Context, Failure, Step};
use crate::mounts::root::Root;

/// More than this is no user database but an attack on our memory.
const MAX_DATABASE_BYTES: u64 = 8 * 1024 * 1024;

/// Ids inside the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// From /etc/passwd, `/` where there is no entry.
    pub home: String,
}

impl Identity {
    /// Resolves `user` in the files below `root`. ENOENT when a name is unknown.
    pub fn resolve(root: &Root, user: &User) -> Result<Identity, Failure> {
        let passwd = database(root, "/etc/passwd")?;
        let mut groups = user.additional_gids().clone().unwrap_or_default();
        let name = user.username().as_deref().unwrap_or_default();
        if name.is_empty() {
            let home = home_of(&passwd, user.uid());
            return Identity { uid: user.uid(), gid: user.gid(), groups, home }.real();
        }
        let group = database(root, "/etc/group")?;
        let (uid, gid, memberships) = look_up(name, &passwd, &group).ok_or(Errno::ENOENT).on(Step::FindUser, name)?;
        for gid in memberships {
            if !groups.contains(&gid) {
                groups.push(gid);
            }
        }
        Identity { uid, gid, groups, home: home_of(&passwd, uid) }.real()
    }

    /// The highest number is no id: setresuid(2) and its like take it for "as it is", which here is root.
    fn real(self) -> Result<Identity, Failure> {
        if [self.uid, self.gid].iter().chain(&self.groups).any(|id| *id == u32::MAX) {
            return Err(Errno::EINVAL).on(Step::FindUser, u32::MAX);
        }
        Ok(self)
    }
}

fn database(root: &Root, path: &str) -> Result<String, Failure> {
    match root.read_text(Path::new(path), MAX_DATABASE_BYTES) {
        Err(Failure { errno: Errno::ENOENT | Errno::ENOTDIR, .. }) => Ok(String::new()),
        other => other,
    }
}

struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// Lines of passwd(5) that are whole.
fn accounts(passwd: &str) -> impl Iterator<Item = Account<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let home = fields.nth(1).unwrap_or_default();
        Some(Account { name, uid, gid, home })
    })
}

fn home_of(passwd: &str, uid: u32) -> String {
    let home = accounts(passwd).find(|account| account.uid == uid).map(|account| account.home);
    home.filter(|home| !home.is_empty()).unwrap_or("/").to_owned()
}

/// Lines of group(5): name, gid, members.
fn groups(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let gid = fields.nth(1)?.parse().ok()?;
        Some((name, gid, fields.next().unwrap_or_default()))
    })
}

/// uid, gid and memberships of `user[:group]`. A number need not be in the database; a group given by the caller
/// replaces the memberships.
fn look_up(text: &str, passwd: &str, group: &str) -> Option<(u32, u32, Vec<u32>)> {
    let (user, wanted_group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (text, None),
    };
    let number: Option<u32> = user.parse().ok();
    let account = accounts(passwd)
        .find(|account| account.name == user)
        .or_else(|| accounts(passwd).find(|account| Some(account.uid) == number));
    let uid = match &account {
        Some(account) => account.uid,
        None if user.is_empty() => 0,
        None => number?,
    };
    if let Some(wanted) = wanted_group {
        let gid = groups(group).find(|(name, ..)| *name == wanted).map(|(_, gid, _)| gid);
        return Some((uid, gid.or_else(|| wanted.parse().ok())?, Vec::new()));
    }
    let memberships = account.as_ref().map_or(Vec::new(), |account| {
        let is_member = |members: &str| members.split(',').any(|member| member == account.name);
        groups(group).filter(|(_, _, members)| is_member(members)).map(|(_, gid, _)| gid).collect()
    });
    Some((uid, account.map_or(0, |account| account.gid), memberships))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbroken\nweb:x:33:44:w:/srv:/bin/sh\n1000:x:7:8::/odd:\n";
    const GROUP: &str = "root:x:0:\nadm:x:4:web,other\nlog:x:5:webby\nweb:x:44:\n";

    #[test]
    fn names_numbers_and_groups() {
        assert_eq!(look_up("web", PASSWD, GROUP), Some((33, 44, vec![4])));
        assert_eq!(look_up("33", PASSWD, GROUP), Some((33, 44, vec![4])));
        assert_eq!(look_up("web:adm", PASSWD, GROUP), Some((33, 4, vec![])));
        assert_eq!(look_up("web:99", PASSWD, GROUP), Some((33, 99, vec![])));
        assert_eq!(look_up("2000", PASSWD, GROUP), Some((2000, 0, vec![])));
        assert_eq!(look_up("nobody", PASSWD, GROUP), None);
        assert_eq!(look_up("web:none", PASSWD, GROUP), None);
    }

    #[test]
    fn what_means_no_change_is_no_id() {
        let identity = |uid, gid, groups| Identity { uid, gid, groups, home: "/".to_owned() };
        for odd in [identity(u32::MAX, 0, vec![]), identity(0, u32::MAX, vec![]), identity(0, 0, vec![u32::MAX])] {
            assert_eq!(odd.real().unwrap_err().errno, Errno::EINVAL);
        }
        identity(u32::MAX - 1, 0, vec![]).real().unwrap();
    }

    #[test]
    fn a_name_that_looks_like_a_number_is_a_name() {
        assert_eq!(look_up("1000", PASSWD, GROUP).unwrap().0, 7);
    }

    #[test]
    fn home_has_a_default() {
        assert_eq!(home_of(PASSWD, 33), "/srv");
        assert_eq!(home_of(PASSWD, 12), "/");
    }
}
