//! Questions about tasks, and StopTask.

use std::path::PathBuf;
use std::sync::Arc;

use futures_util::Stream;
use proto::v1::{
    DescribeTasksRequest, DescribeTasksResponse, Failure, ListTasksRequest, ListTasksResponse, StopTaskRequest, Task,
    WatchTasksRequest,
};
use runtime::monitor::protocol;
use tokio::sync::{oneshot, watch};

use super::definitions::{page, with_tags};
use super::{Engine, EngineError};
use crate::events;
use crate::identity::TaskId;
use crate::task::TaskRecord;
use crate::task::driver::Command;
use crate::task::provision::Places;

/// ECS's bound of DescribeTasks.
const MOST_DESCRIBED: usize = 100;

const LAUNCH_TYPES: [&str; 3] = ["EC2", "EXTERNAL", "FARGATE"];

/// A container's log.
#[derive(Debug, Clone)]
pub struct ContainerLog {
    /// Its name.
    pub container: String,
    /// The current file; rotated ones are beside it.
    pub path: PathBuf,
    /// Whether nothing more will be written.
    pub ended: watch::Receiver<bool>,
}

/// Where and how a command runs in a container.
#[derive(Debug, Clone)]
pub struct ExecTarget {
    /// The monitor's socket.
    pub socket: PathBuf,
    /// The container's own process.
    pub process: oci_spec::runtime::Process,
}

impl Engine {
    /// Asks a task to stop. Stopping one that stops or has stopped is success.
    pub async fn stop_task(&self, request: StopTaskRequest) -> Result<Task, EngineError> {
        let (id, record) = self.find(request.cluster.as_deref(), request.task.as_deref().unwrap_or_default())?;
        if !record.is_stopped() {
            let driver = self.shared.handle(&id);
            let (done, told) = oneshot::channel();
            let given = request.reason.filter(|reason| !reason.is_empty());
            let reason = given.unwrap_or_else(|| "Task stopped by user".to_owned());
            let stop = Command::Stop { code: "UserInitiated", reason, done };
            // A driver that ends before it takes this has stopped the task.
            if let Some(driver) = driver
                && driver.commands.send(stop).await.is_ok()
            {
                let _best_effort = told.await;
            }
        }
        self.find(request.cluster.as_deref(), id.as_str()).map(|(_, record)| record.task.clone())
    }

    /// Describes tasks by id or ARN; unknown ones are failures with the reason MISSING.
    pub fn describe_tasks(&self, request: &DescribeTasksRequest) -> Result<DescribeTasksResponse, EngineError> {
        self.check_cluster(request.cluster.as_deref())?;
        let invalid = |message: &str| EngineError::InvalidParameter { field: "tasks", message: message.to_owned() };
        if request.tasks.is_empty() {
            return Err(invalid("Tasks cannot be empty."));
        }
        if request.tasks.len() > MOST_DESCRIBED {
            return Err(invalid("At most 100 tasks can be described at once."));
        }
        let with_tags = with_tags(&request.include)?;
        let mut answer = DescribeTasksResponse::default();
        for name in &request.tasks {
            let found = self.shared.names.task(name).and_then(|id| Some((id.clone(), self.shared.record(&id)?)));
            match found {
                Some((id, record)) => {
                    let mut task = self.shared.shown(&id, &record);
                    if !with_tags {
                        task.tags.clear();
                    }
                    answer.tasks.push(task);
                }
                None => {
                    let id = TaskId::parse(name).filter(|id| id.as_str() == name);
                    let arn = id.map_or(name.clone(), |id| self.shared.names.task_arn(&id));
                    let reason = Some("MISSING".to_owned());
                    answer.failures.push(Failure { arn: Some(arn), reason, detail: None });
                }
            }
        }
        Ok(answer)
    }

    /// Lists ARNs, newest first, of tasks whose desired status is RUNNING unless asked otherwise.
    pub fn list_tasks(&self, request: &ListTasksRequest) -> Result<ListTasksResponse, EngineError> {
        self.check_cluster(request.cluster.as_deref())?;
        let desired = request.desired_status.as_deref().unwrap_or("RUNNING");
        if !["RUNNING", "STOPPED", "PENDING"].contains(&desired) {
            let message = format!("Invalid desiredStatus '{desired}': use RUNNING or STOPPED.");
            return Err(EngineError::InvalidParameter { field: "desiredStatus", message });
        }
        if let Some(other) = request.launch_type.as_deref().filter(|word| !LAUNCH_TYPES.contains(word)) {
            let message = format!("Invalid launchType '{other}': use EC2, EXTERNAL or FARGATE.");
            return Err(EngineError::InvalidParameter { field: "launchType", message });
        }
        for (field, given) in [("serviceName", &request.service_name), ("daemonName", &request.daemon_name)] {
            if given.is_some() {
                let message = format!("{field} is not supported: there are no services yet.");
                return Err(EngineError::InvalidParameter { field, message });
            }
        }
        let matches = |record: &TaskRecord| {
            let task = &record.task;
            let same = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|wanted| wanted == is);
            task.desired_status() == desired
                && same(&request.family, record.definition.family())
                && same(&request.started_by, task.started_by())
                && same(&request.launch_type, task.launch_type())
                && request.container_instance.as_deref().is_none_or(|wanted| is_instance(wanted, task))
        };
        let told = |record: &TaskRecord| (record.task.created_at(), record.task.task_arn().to_owned());
        let look = |(_, record): (_, Arc<TaskRecord>)| matches(&record).then(|| told(&record));
        // Of the tasks that are over none is to run: most requests need not unpack them.
        let mut found: Vec<(f64, String)> = match desired {
            "STOPPED" => self.shared.records().filter_map(look).collect(),
            _ => self.shared.driven().into_iter().filter_map(look).collect(),
        };
        found.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        let arns = found.into_iter().map(|(_, arn)| arn).collect();
        let (task_arns, next_token) = page(arns, request.next_token.as_deref(), request.max_results)?;
        Ok(ListTasksResponse { task_arns, next_token })
    }

    /// Each asked task as it is, then after each change.
    pub fn watch_tasks(
        &self,
        request: &WatchTasksRequest,
    ) -> Result<impl Stream<Item = Task> + Send + 'static + use<>, EngineError> {
        let wanted = request
            .tasks
            .iter()
            .map(|name| self.find(request.cluster.as_deref(), name).map(|(id, _)| id))
            .collect::<Result<Vec<_>, _>>()?;
        self.check_cluster(request.cluster.as_deref())?;
        Ok(events::states::tasks(self.shared.clone(), wanted))
    }

    /// The logs of a task's containers, or of one.
    pub fn container_logs(
        &self,
        cluster: Option<&str>,
        task: &str,
        container: Option<&str>,
    ) -> Result<Vec<ContainerLog>, EngineError> {
        let (id, record) = self.find(cluster, task)?;
        let places = Places::of(&self.shared.config.root, &id);
        let view = self.shared.handle(&id).map(|driver| driver.view);
        let mut logs = Vec::new();
        for (index, known) in record.task.containers.iter().enumerate() {
            let name = known.name();
            if container.is_none_or(|wanted| wanted == name) {
                let ended = view.clone().map_or_else(|| watch::channel(true).1, |view| ended(view, index));
                logs.push(ContainerLog { container: name.to_owned(), path: places.log(name), ended });
            }
        }
        if logs.is_empty() {
            return Err(no_such_container(&id, container.unwrap_or_default()));
        }
        Ok(logs)
    }

    /// How to run a command in a running container. The only one of a task need not be named.
    pub fn exec_target(
        &self,
        cluster: Option<&str>,
        task: &str,
        container: Option<&str>,
    ) -> Result<ExecTarget, EngineError> {
        let bundle = self.running_bundle(cluster, task, container)?;
        let path = bundle.join("config.json");
        let config = std::fs::read(&path)
            .and_then(|bytes| Ok(serde_json::from_slice::<oci_spec::runtime::Spec>(&bytes)?))
            .map_err(|source| EngineError::File { path, source })?;
        let process = config.process().clone().unwrap_or_default();
        Ok(ExecTarget { socket: bundle.join(protocol::SOCKET_FILE), process })
    }

    /// The socket of a running container's monitor. The only one of a task need not be named.
    pub fn attach_target(
        &self,
        cluster: Option<&str>,
        task: &str,
        container: Option<&str>,
    ) -> Result<PathBuf, EngineError> {
        Ok(self.running_bundle(cluster, task, container)?.join(protocol::SOCKET_FILE))
    }

    fn running_bundle(
        &self,
        cluster: Option<&str>,
        task: &str,
        container: Option<&str>,
    ) -> Result<PathBuf, EngineError> {
        let (id, record) = self.find(cluster, task)?;
        let containers = &record.task.containers;
        let known = match container {
            Some(name) => containers.iter().find(|container| container.name() == name),
            None if containers.len() == 1 => containers.first(),
            None => {
                let names: Vec<_> = containers.iter().map(|container| container.name()).collect();
                let message = format!("The task has several containers, name one of: {}.", names.join(", "));
                return Err(EngineError::InvalidParameter { field: "container", message });
            }
        };
        let known = known.ok_or_else(|| no_such_container(&id, container.unwrap_or_default()))?;
        if known.last_status() != "RUNNING" {
            return Err(EngineError::NotRunning { container: known.name().to_owned() });
        }
        Ok(Places::of(&self.shared.config.root, &id).bundle(known.name()))
    }

    pub(super) fn check_cluster(&self, cluster: Option<&str>) -> Result<(), EngineError> {
        if self.shared.names.is_cluster(cluster) { Ok(()) } else { Err(EngineError::ClusterNotFound) }
    }

    pub(super) fn find(&self, cluster: Option<&str>, task: &str) -> Result<(TaskId, Arc<TaskRecord>), EngineError> {
        self.check_cluster(cluster)?;
        self.shared.names.task(task).and_then(|id| Some((id.clone(), self.shared.record(&id)?))).ok_or_else(|| {
            EngineError::InvalidParameter { field: "task", message: "The referenced task was not found.".to_owned() }
        })
    }
}

/// By id or ARN.
fn is_instance(wanted: &str, task: &Task) -> bool {
    let arn = task.container_instance_arn();
    arn == wanted || arn.rsplit('/').next() == Some(wanted)
}

fn no_such_container(task: &TaskId, container: &str) -> EngineError {
    let message = format!("The task {task} has no container '{container}'.");
    EngineError::InvalidParameter { field: "container", message }
}

/// Follows a container's record: its log is whole before its record says STOPPED.
fn ended(mut view: watch::Receiver<Arc<TaskRecord>>, index: usize) -> watch::Receiver<bool> {
    let is_over = move |record: &Arc<TaskRecord>| {
        record.is_stopped() || record.task.containers.get(index).is_none_or(|known| known.last_status() == "STOPPED")
    };
    let (tell, told) = watch::channel(is_over(&view.borrow()));
    tokio::spawn(async move {
        tokio::select! {
            // A driver that ended with its task has told its last word.
            _ = view.wait_for(is_over) => {}
            () = tell.closed() => {}
        }
        tell.send_replace(true);
    });
    told
}
