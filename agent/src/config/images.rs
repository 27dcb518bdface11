//! `[images]`: what a pull may cost and how long it may take, and when images that no task uses go. Owns the meaning,
//! defaults and limits of these keys.

use serde::Deserialize;

use super::range;

/// What a pull may cost, and when images go. The defaults are ECS's where ECS has one (ecs-semantics 1.15).
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ImagesConfig {
    /// When a task's registry is asked.
    pub pull_behavior: PullBehavior,
    /// MiB that one pull may unpack.
    pub max_image_mib: u64,
    /// Files and directories that one pull may make.
    pub max_image_files: u64,
    /// MiB of the images' file system that pulls leave free.
    pub low_disk_mib: u64,
    /// Seconds after which a pull is ended.
    pub pull_timeout_secs: u32,
    /// Seconds without a byte after which a transfer is broken off and taken up again.
    pub inactivity_timeout_secs: u32,
    /// How often in a row a transfer that gets no further is taken up again.
    pub retries: u32,
    /// Whether images go at all.
    pub cleanup: bool,
    /// Hours since its last use after which an image may go. Fractions are allowed.
    pub cleanup_age_hours: f64,
    /// Minutes between two cycles. Fractions are allowed.
    pub cleanup_interval_minutes: f64,
    /// Most images that one cycle removes for their age.
    pub cleanup_per_cycle: u32,
    /// Per cent of the images' file system in use beyond which images go whatever their age.
    pub high_water_percent: u8,
    /// References of images that stay.
    pub keep: Vec<String>,
}

impl Default for ImagesConfig {
    fn default() -> Self {
        Self {
            pull_behavior: PullBehavior::Default,
            max_image_mib: 262_144,
            max_image_files: 8_388_608,
            low_disk_mib: 256,
            pull_timeout_secs: 7_200,
            inactivity_timeout_secs: 60,
            retries: 5,
            cleanup: true,
            cleanup_age_hours: 1.0,
            cleanup_interval_minutes: 30.0,
            cleanup_per_cycle: 5,
            high_water_percent: 85,
            keep: Vec::new(),
        }
    }
}

/// When the registry is asked for a task's image (ECS_IMAGE_PULL_BEHAVIOR).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PullBehavior {
    /// Each time; where that fails, what is here is used.
    Default,
    /// Each time; where that fails, so does the task.
    Always,
    /// Only for an image that is not here.
    Once,
    /// Only for an image that is not here, and none is cleaned up.
    PreferCached,
}

impl PullBehavior {
    /// Reads ECS's word; None for another.
    pub(super) fn parse(word: &str) -> Option<PullBehavior> {
        match word {
            "default" => Some(PullBehavior::Default),
            "always" => Some(PullBehavior::Always),
            "once" => Some(PullBehavior::Once),
            "prefer-cached" => Some(PullBehavior::PreferCached),
            _ => None,
        }
    }
}

impl ImagesConfig {
    /// Whether images go that no task uses.
    pub fn cleans_up(&self) -> bool {
        self.cleanup && self.pull_behavior != PullBehavior::PreferCached
    }

    /// Every value out of its range, as (key, message).
    pub(super) fn problems(&self) -> Vec<(&'static str, String)> {
        let ranges = [
            ("max_image_mib", range(self.max_image_mib, 1, 1 << 30)),
            ("max_image_files", range(self.max_image_files, 1, 1 << 40)),
            ("low_disk_mib", range(self.low_disk_mib, 0, 1 << 30)),
            ("pull_timeout_secs", range(self.pull_timeout_secs, 1, 604_800)),
            ("inactivity_timeout_secs", range(self.inactivity_timeout_secs, 1, 86_400)),
            ("retries", range(self.retries, 0, 100)),
            ("cleanup_age_hours", range(self.cleanup_age_hours, 0.0, 876_000.0)),
            // A second at least.
            ("cleanup_interval_minutes", range(self.cleanup_interval_minutes, 1.0 / 60.0, 525_600.0)),
            ("cleanup_per_cycle", range(self.cleanup_per_cycle, 1, 1_000_000)),
            ("high_water_percent", range(self.high_water_percent, 1, 100)),
        ];
        let ranges = ranges.into_iter().filter_map(|(key, problem)| Some((key, problem?)));
        let names = self.keep.iter().filter_map(|name| {
            let error = name.parse::<rootfs::Reference>().err()?;
            Some(("keep", error.to_string()))
        });
        ranges.chain(names).collect()
    }
}
