//! The text: names with their units, what runs and nothing else.

use std::sync::Arc;

use proto::v1::{Container, Task};

use super::*;
use crate::identity::TaskId;
use crate::sandbox::TaskUse;
use crate::timing::{Phase, since_boot};

fn record(status: &str, stop_code: Option<&str>) -> TaskRecord {
    let container = Container { name: Some("web\"\n".to_owned()), ..Container::default() };
    let task = Task {
        last_status: Some(status.to_owned()),
        stop_code: stop_code.map(str::to_owned),
        containers: vec![container],
        ..Task::default()
    };
    TaskRecord { task, ..TaskRecord::default() }
}

#[test]
fn counted_and_measured_figures_are_in_the_text_by_their_names() {
    let metrics = Metrics::new(durations());
    metrics.changed(&record("ACTIVATING", None), &record("RUNNING", None));
    metrics.changed(&record("DEPROVISIONING", None), &record("STOPPED", Some("UserInitiated")));
    metrics.changed(&record("RUNNING", None), &record("RUNNING", None));
    metrics.pulled(Duration::from_millis(3), 1_000, true);
    let (id, now) = (TaskId::random(), since_boot());
    let timing = Timing::new(&id, now);
    let (container, ends) = (None, now + Duration::from_millis(2));
    timing.note(Phase { name: "clone", part_of: Some("execute"), container, begins: now, ends });
    timing.executed(now + Duration::from_secs(1));
    metrics.started(&timing);

    let running = Arc::new(record("RUNNING", None));
    let used = Use {
        cpu: Duration::from_millis(1_500),
        memory_bytes: 50_000_000,
        pids: Some(3),
        block_bytes: None,
        ..Use::default()
    };
    let of_task = Use { memory_limit_bytes: Some(1 << 20), ..Use::default() };
    let used = TaskUse { task: Some(of_task), containers: vec![Some(used)] };
    let measured = Measured { id: id.clone(), record: running.clone(), running: vec![0], used };
    let text = metrics.text(&[(id.clone(), running)], 1, &[measured]);
    let labels = format!("{{task=\"{id}\",container=\"web\\\"\\n\"}}");
    for line in [
        "neargate_task_starts_total 1".to_owned(),
        "neargate_task_stops_total{stop_code=\"UserInitiated\"} 1".to_owned(),
        "neargate_image_pulls_total{outcome=\"success\"} 1".to_owned(),
        "neargate_image_pulled_bytes_total 1000".to_owned(),
        "neargate_task_start_seconds_count 1".to_owned(),
        "neargate_task_start_phase_seconds_count{phase=\"clone\"} 1".to_owned(),
        "neargate_tasks{status=\"RUNNING\"} 1".to_owned(),
        "neargate_tasks{status=\"STOPPED\"} 1".to_owned(),
        format!("neargate_container_cpu_seconds_total{labels} 1.5"),
        format!("neargate_container_memory_bytes{labels} 50000000.0"),
        format!("neargate_container_memory_limit_bytes{labels} 1048576.0"),
        format!("neargate_container_pids{labels} 3.0"),
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    for name in ["process_resident_memory_bytes ", "process_cpu_seconds_total ", "process_open_fds "] {
        assert!(text.lines().any(|line| line.starts_with(name)), "{name} is not in\n{text}");
    }
    assert!(!text.contains("neargate_container_block_read_bytes_total{"), "nothing made up: {text}");
    assert!(!metrics.text(&[], 0, &[]).contains(&*id.to_string()), "gone with its container");
}
