//! Capability sets of a container's process: OCI names to kernel sets, and the two moments at which they change.
//! Owns no policy beyond docker's default set; which names a container gets is the bundle's.
//! Source: [capabilities(7)](https://man7.org/linux/man-pages/man7/capabilities.7.html), OCI config `process.capabilities`.

use std::collections::HashSet;
use std::str::FromStr;

use caps::errors::CapsError;
use caps::{CapSet, Capability, CapsHashSet};
use oci_spec::runtime::LinuxCapabilities;

/// What docker gives a container that asks for nothing; ECS's default too.
pub const DEFAULT: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// Why capabilities could not be set.
#[derive(Debug, thiserror::Error)]
pub enum CapabilityError {
    /// The name is not one the kernel's headers know.
    #[error("unknown capability {name}")]
    Unknown {
        /// As written.
        name: String,
    },
    /// The kernel refused.
    #[error("cannot set the {set} capabilities")]
    Set {
        /// Which set.
        set: &'static str,
        /// The kernel's answer.
        #[source]
        source: CapsError,
    },
}

/// The five sets of a process.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CapabilitySets {
    bounding: CapsHashSet,
    effective: CapsHashSet,
    inheritable: CapsHashSet,
    permitted: CapsHashSet,
    ambient: CapsHashSet,
}

impl CapabilitySets {
    /// Reads the sets of a bundle; an absent set is empty.
    pub fn from_oci(sets: &LinuxCapabilities) -> Result<CapabilitySets, CapabilityError> {
        Ok(CapabilitySets {
            bounding: named(sets.bounding().as_ref())?,
            effective: named(sets.effective().as_ref())?,
            inheritable: named(sets.inheritable().as_ref())?,
            permitted: named(sets.permitted().as_ref())?,
            ambient: named(sets.ambient().as_ref())?,
        })
    }

    /// Drops from the bounding set what the container may never have. Needs CAP_SETPCAP, so it comes before the
    /// change of user.
    pub fn drop_bounding(&self) -> Result<(), CapabilityError> {
        let held = caps::read(None, CapSet::Bounding).map_err(|source| failed("bounding", source))?;
        for capability in held.difference(&self.bounding) {
            caps::drop(None, CapSet::Bounding, *capability).map_err(|source| failed("bounding", source))?;
        }
        Ok(())
    }

    /// Sets the other four. The caller kept its permitted set over the change of user (PR_SET_KEEPCAPS).
    ///
    /// Order: effective must stay within permitted, ambient within permitted and inheritable.
    pub fn apply(&self) -> Result<(), CapabilityError> {
        caps::set(None, CapSet::Inheritable, &self.inheritable).map_err(|source| failed("inheritable", source))?;
        caps::set(None, CapSet::Effective, &self.effective).map_err(|source| failed("effective", source))?;
        caps::set(None, CapSet::Permitted, &self.permitted).map_err(|source| failed("permitted", source))?;
        caps::clear(None, CapSet::Ambient).map_err(|source| failed("ambient", source))?;
        // `runc spec` asks for ambient capabilities that are not inheritable, which the kernel denies; runc goes on too.
        let inheritable = self.ambient.intersection(&self.inheritable);
        for capability in inheritable.filter(|capability| self.permitted.contains(capability)) {
            caps::raise(None, CapSet::Ambient, *capability).map_err(|source| failed("ambient", source))?;
        }
        Ok(())
    }
}

/// Sets without a capability: the builder's own default is not empty.
pub fn none() -> LinuxCapabilities {
    let mut sets = LinuxCapabilities::default();
    let empty = || Some(oci_spec::runtime::Capabilities::new());
    sets.set_bounding(empty()).set_effective(empty()).set_inheritable(empty()).set_permitted(empty());
    sets.set_ambient(empty());
    sets
}

/// Names of all capabilities that this process may hand on: its bounding set, sorted.
pub fn available() -> Result<Vec<String>, CapabilityError> {
    let held = caps::read(None, CapSet::Bounding).map_err(|source| failed("bounding", source))?;
    let mut names: Vec<String> = held.iter().map(ToString::to_string).collect();
    names.sort();
    Ok(names)
}

/// Names of all capabilities that can be asked for, sorted.
pub fn known() -> Vec<String> {
    let mut names: Vec<String> = caps::all().iter().map(ToString::to_string).collect();
    names.sort();
    names
}

fn failed(set: &'static str, source: CapsError) -> CapabilityError {
    CapabilityError::Set { set, source }
}

fn named(set: Option<&HashSet<oci_spec::runtime::Capability>>) -> Result<CapsHashSet, CapabilityError> {
    set.into_iter()
        .flatten()
        .map(|capability| {
            let name = format!("CAP_{capability}");
            Capability::from_str(&name).map_err(|_| CapabilityError::Unknown { name })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_oci_name_is_known() {
        for name in DEFAULT {
            let sets: LinuxCapabilities = serde_json::from_value(serde_json::json!({ "bounding": [name] })).unwrap();
            assert_eq!(CapabilitySets::from_oci(&sets).unwrap().bounding.len(), 1, "{name}");
        }
    }

    #[test]
    fn absent_sets_are_empty() {
        let sets: LinuxCapabilities = serde_json::from_value(serde_json::json!({})).unwrap();
        assert_eq!(CapabilitySets::from_oci(&sets).unwrap(), CapabilitySets::default());
    }

    #[test]
    fn available_is_what_the_bounding_set_says() {
        assert!(available().unwrap().iter().any(|name| name == "CAP_SYS_ADMIN"));
    }
}
