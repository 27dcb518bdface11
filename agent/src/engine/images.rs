//! The host's images as the engine sees them: what the configuration means for them, the leases of tasks that an earlier
//! agent left, and the cycle that removes what nobody uses. How images are kept is `rootfs`'.

use std::sync::Arc;
use std::time::Duration;

use rootfs::{Cleanup, Images, Limits, Reference, Removed};
use runtime::cli::report::chain;
use tokio::time::Instant;

use super::Shared;
use crate::config::Config;
use crate::identity::TaskId;
use crate::task::TaskRecord;

/// The configuration in `rootfs`' words.
pub(super) fn settings(config: &Config) -> rootfs::Config {
    let registries = config
        .registries
        .iter()
        .map(|(host, settings)| {
            let settings = rootfs::RegistryConfig {
                plain_http: settings.plain_http,
                mirrors: settings.mirrors.clone(),
                username: settings.username.clone(),
                password_file: settings.password_file.clone(),
                ca_file: settings.ca_file.clone(),
            };
            (host.clone(), settings)
        })
        .collect();
    let images = &config.images;
    let limits = Limits {
        stall_timeout: Duration::from_secs(images.inactivity_timeout_secs.into()),
        pull_timeout: Duration::from_secs(images.pull_timeout_secs.into()),
        retries: images.retries,
        max_image_bytes: images.max_image_mib << 20,
        max_image_files: images.max_image_files,
        low_disk_bytes: images.low_disk_mib << 20,
        ..Limits::default()
    };
    rootfs::Config { registries, limits }
}

/// Leases are not synced: a task that survived a power cut in the store may have lost its own.
pub(super) fn lease_again(images: &Images, task: &TaskId, record: &TaskRecord) {
    for id in (0..record.image_ids.len()).filter_map(|index| record.image_id(index)) {
        if let Err(error) = images.lease(task.as_str(), &id) {
            tracing::warn!(%task, error = chain(&error), "an image of the task is gone");
        }
    }
}

/// Cleans up until the agent ends.
pub(super) async fn run(shared: Arc<Shared>) {
    let images = &shared.config.images;
    if !images.cleans_up() {
        return;
    }
    let period = Duration::from_secs_f64(images.cleanup_interval_minutes * 60.0);
    // Not at once: who starts an agent and pulls images beforehand means to use them.
    let mut ticks = tokio::time::interval_at(Instant::now() + period, period);
    loop {
        tokio::select! {
            () = shared.ends.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let cleaning = shared.clone();
        // A panic has been told already; the next cycle is a new try.
        let _best_effort = tokio::task::spawn_blocking(move || clean_up(&cleaning)).await;
    }
}

/// One cycle.
fn clean_up(shared: &Shared) {
    let config = &shared.config.images;
    let policy = Cleanup {
        min_age: Duration::from_secs_f64(config.cleanup_age_hours * 3_600.0),
        per_cycle: config.cleanup_per_cycle as usize,
        high_water_percent: config.high_water_percent,
        keep: config.keep.iter().filter_map(|name| name.parse().ok()).collect(),
    };
    let pulls = shared.pulls();
    let gone = |removed: Removed| {
        let names: Vec<String> = removed.references.iter().map(Reference::to_string).collect();
        names.iter().for_each(|name| pulls.removed(name));
        let names = names.join(", ");
        tracing::info!(image = %removed.id, names, bytes = removed.size_bytes, "removed an image that nobody uses");
    };
    if let Err(error) = shared.images.clean_up(&policy, gone) {
        tracing::error!(error = chain(&error), "images could not be cleaned up");
    }
}
