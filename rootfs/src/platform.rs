//! Which images run here: this host's platform, what else its processor runs, and the choice among an index's manifests
//! (OCI image-spec, image-index.md). `os.version` and `os.features` say nothing on Linux and are not looked at.

use std::fmt;

use oci_spec::image::{Arch, Descriptor, ImageConfiguration, ImageIndex, Os};

use crate::excerpt;

/// A host as image indexes name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    /// `GOOS`.
    pub os: Os,
    /// `GOARCH` and variant of all that runs here, best first; the empty text is "none told". The first architecture is
    /// the host's own.
    pub runs: Vec<(Arch, &'static str)>,
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.runs.iter().take(1).try_for_each(|(architecture, _)| write!(f, "{}/{architecture}", self.os))
    }
}

impl Platform {
    /// The platform of this host: Linux on its architecture. As in containerd the exact platform comes first, then what
    /// is compatible with it.
    pub fn host() -> Self {
        let architecture = Arch::default();
        let runs = match &architecture {
            Arch::Amd64 => amd64(level()),
            Arch::ARM64 => [(Arch::ARM64, "v8"), (Arch::ARM64, ""), (Arch::ARM64, "v8.0")].into(),
            Arch::ARM => ["v7", "", "v6", "v5"].map(|variant| (Arch::ARM, variant)).into(),
            _ => vec![(architecture, "")],
        };
        Self { os: Os::Linux, runs }
    }

    /// Rank of an offer, lower is better; `None` does not run here.
    fn rank(&self, os: &Os, architecture: &Arch, variant: Option<&str>) -> Option<usize> {
        let variant = variant.unwrap_or_default();
        let offer = || self.runs.iter().position(|(ours, known)| ours == architecture && *known == variant);
        (*os == self.os).then(offer).flatten()
    }

    /// Whether an image with that configuration runs here.
    pub(crate) fn runs(&self, config: &ImageConfiguration) -> bool {
        self.rank(config.os(), config.architecture(), config.variant().as_deref()).is_some()
    }

    /// The best manifest of an index. Ties go to the first, as the OCI image-spec asks (image-index.md, "manifests").
    pub(crate) fn choose<'a>(&self, index: &'a ImageIndex) -> Option<&'a Descriptor> {
        let ranked = index.manifests().iter().filter_map(|descriptor| {
            let rank = match descriptor.platform() {
                Some(p) => self.rank(p.os(), p.architecture(), p.variant().as_deref())?,
                // An entry that tells no platform may fit; its configuration decides later.
                None if is_image_or_index(descriptor) => self.runs.len(),
                None => return None,
            };
            Some((rank, descriptor))
        });
        ranked.min_by_key(|(rank, _)| *rank).map(|(_, descriptor)| descriptor)
    }

    /// Every platform an index offers, for the message when none fits.
    pub(crate) fn offered(index: &ImageIndex) -> Vec<String> {
        let platforms = index.manifests().iter().filter_map(|d| d.platform().as_ref());
        excerpt::list(platforms.map(|p| name(p.os(), p.architecture(), p.variant().as_deref())))
    }

    /// The platform that an image's configuration says, in words.
    pub(crate) fn of(config: &ImageConfiguration) -> String {
        excerpt::text(name(config.os(), config.architecture(), config.variant().as_deref()))
    }
}

fn name(os: &Os, architecture: &Arch, variant: Option<&str>) -> String {
    let variant = variant.filter(|variant| !variant.is_empty());
    variant.map_or_else(|| format!("{os}/{architecture}"), |variant| format!("{os}/{architecture}/{variant}"))
}

/// What a processor of that level of the x86-64 psABI runs. The kernel runs 32-bit programs too.
fn amd64(level: usize) -> Vec<(Arch, &'static str)> {
    let levels = ["v4", "v3", "v2", "", "v1"];
    let fits = levels.into_iter().skip(4_usize.saturating_sub(level).min(3));
    fits.map(|variant| (Arch::Amd64, variant)).chain([(Arch::i386, "")]).collect()
}

/// The processor's level: x86-64 psABI, "Micro-Architecture Levels".
#[cfg(target_arch = "x86_64")]
fn level() -> usize {
    macro_rules! all {
        ($($feature:tt)*) => { $(std::arch::is_x86_feature_detected!($feature))&&* };
    }
    let second = all!("cmpxchg16b" "popcnt" "sse3" "sse4.1" "sse4.2" "ssse3");
    let third = all!("avx" "avx2" "bmi1" "bmi2" "f16c" "fma" "lzcnt" "movbe" "xsave");
    let fourth = all!("avx512f" "avx512bw" "avx512cd" "avx512dq" "avx512vl");
    1 + [second, third, fourth].into_iter().take_while(|has| *has).count()
}

#[cfg(not(target_arch = "x86_64"))]
fn level() -> usize {
    1
}

fn is_image_or_index(descriptor: &Descriptor) -> bool {
    let media_type = descriptor.media_type().to_string();
    media_type.contains("manifest") || media_type.contains("image.index")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn index(platforms: &[(&str, &str, Option<&str>)]) -> ImageIndex {
        let manifests: Vec<_> = platforms
            .iter()
            .enumerate()
            .map(|(size, (os, architecture, variant))| {
                serde_json::json!({
                    "mediaType": "application/vnd.oci.image.manifest.v1+json",
                    "digest": format!("sha256:{HEX}"), "size": size,
                    "platform": {"os": os, "architecture": architecture, "variant": variant, "os.version": "1.2"},
                })
            })
            .collect();
        serde_json::from_value(serde_json::json!({"schemaVersion": 2, "manifests": manifests})).unwrap()
    }

    fn of_level(level: usize) -> Platform {
        Platform { os: Os::Linux, runs: amd64(level) }
    }

    /// The place of what is chosen.
    fn chosen(platform: &Platform, offers: &[(&str, &str, Option<&str>)]) -> Option<u64> {
        platform.choose(&index(offers)).map(Descriptor::size)
    }

    #[test]
    fn the_platform_that_runs_here_is_chosen() {
        let offers = [
            ("windows", "amd64", None),
            ("linux", "arm64", Some("v8")),
            ("linux", "amd64", Some("v3")),
            ("linux", "amd64", None),
            ("linux", "amd64", None),
            ("unknown", "unknown", None),
        ];
        assert_eq!(chosen(&of_level(1), &offers), Some(3));
        assert_eq!(chosen(&of_level(1), &offers[..3]), None);
        assert_eq!(Platform::offered(&index(&offers[1..4])), ["linux/arm64/v8", "linux/amd64/v3", "linux/amd64"]);
        assert_eq!(of_level(3).to_string(), "linux/amd64");
    }

    #[test]
    fn the_best_variant_that_the_processor_has_is_chosen() {
        let offers: Vec<_> = [None, Some("v1"), Some("v2"), Some("v3"), Some("v4")]
            .into_iter()
            .map(|variant| ("linux", "amd64", variant))
            .collect();
        let best: Vec<_> = (1..=4).map(|level| chosen(&of_level(level), &offers).unwrap()).collect();
        assert_eq!(best, [0, 2, 3, 4]);
        assert_eq!(chosen(&of_level(2), &offers[3..]), None);
        let old = [("linux", "386", None), ("linux", "amd64", Some("v1"))];
        assert_eq!((chosen(&of_level(2), &old), chosen(&of_level(2), &old[..1])), (Some(1), Some(0)));
    }

    #[test]
    fn an_arm_processor_runs_its_elders_programs() {
        let runs = ["v7", "", "v6", "v5"].map(|variant| (Arch::ARM, variant)).into();
        let arm = Platform { os: Os::Linux, runs };
        let arms = [("linux", "arm", Some("v5")), ("linux", "arm", Some("v8")), ("linux", "arm", Some("v6"))];
        assert_eq!(chosen(&arm, &arms), Some(2));
        assert_eq!(chosen(&arm, &arms[1..2]), None);
    }
}
