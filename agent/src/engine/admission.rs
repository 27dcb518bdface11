//! RunTask: everything is checked before anything is made; the answer comes once the records are durable.

use std::sync::Arc;

use definition::task::{CpuArchitecture, TaskSpec, VolumeSource};
use definition::{check_run_task, with_overrides};
use prost::Message as _;
use proto::v1::{
    Attribute, Container, EphemeralStorage, Failure, RunTaskRequest, RunTaskResponse, Tag, Task, TaskDefinition,
};
use sha2::{Digest as _, Sha256};

use super::definitions::blocking;
use super::{Engine, EngineError, Shared};
use crate::capacity::Demand;
use crate::events;
use crate::identity::{TaskId, runtime_id};
use crate::store::{DefinitionRecord, TokenRecord};
use crate::task::lifecycle::Status;
use crate::task::provision;
use crate::task::{Stage, TaskRecord};
use crate::timing::{Phase, Timing, since_boot};
use crate::trace::now;

/// The attribute of a task that has no user namespace.
const USER_NAMESPACE: &str = "neargate.user-namespace";

impl Engine {
    /// Accepts tasks, or tells why they cannot be placed here.
    pub async fn run_task(&self, request: RunTaskRequest) -> Result<RunTaskResponse, EngineError> {
        let arrived = since_boot();
        if !self.shared.names.is_cluster(request.cluster.as_deref()) {
            return Err(EngineError::ClusterNotFound);
        }
        let token = request.client_token.clone();
        let digest = Sha256::digest(RunTaskRequest { client_token: None, ..request.clone() }.encode_to_vec()).to_vec();
        if let Some(token) = &token
            && let Some(answer) = self.repeated(token, &digest).await?
        {
            return Ok(answer);
        }
        if self.is_draining() {
            return Err(EngineError::Draining);
        }
        let DefinitionRecord { definition, tags } = self.definition_to_run(&request).await?;
        let tags = self.tags(&request, tags);
        let spec = checked(&request, &definition)?;
        let off = self.user_namespace_off(&spec).await?;
        // Nothing before may take long for want of what others have, such as a file server that is gone.
        let deciding = self.deciding.clone().lock_owned().await;
        if let Some(token) = &token
            && let Some(answer) = self.repeated(token, &digest).await?
        {
            return Ok(answer);
        }
        // It may have been drained while this waited.
        if self.is_draining() {
            return Err(EngineError::Draining);
        }
        let count = usize::try_from(request.count.unwrap_or(1)).unwrap_or(1);
        if let Some(failure) = self.cannot_be_placed(&spec) {
            return Ok(RunTaskResponse { tasks: Vec::new(), failures: vec![failure; count] });
        }
        let mut records: Vec<(TaskId, TaskRecord)> =
            (0..count).map(|_| self.record(&request, &definition, &spec, &tags)).collect();
        if let Some(reason) = off {
            records.iter_mut().for_each(|(_, record)| without_user_namespace(record, reason));
        }
        let tokens = token.map(|token| {
            let tasks = records.iter().map(|(id, _)| id.to_string()).collect();
            (token, TokenRecord { request: digest, tasks })
        });
        let (shared, demand) = (self.shared.clone(), Demand::of(&spec));
        // To the end of it where no client that goes away can interrupt: what is stored is also driven.
        let admitted = since_boot();
        blocking(move || {
            let _deciding = deciding;
            let token = tokens.as_ref().map(|(token, record)| (token.as_str(), record.clone()));
            for (id, record) in &mut records {
                shared.enter(id, record, &demand);
            }
            if let Err(error) = shared.store.add_tasks(shared.names.cluster(), &records, token) {
                records.iter_mut().for_each(|(id, record)| shared.leave(id, record));
                return Err(error.into());
            }
            let stored = since_boot();
            let tasks = records.iter().map(|(_, record)| record.task.clone()).collect();
            for (id, record) in records {
                let demand = (!record.admitted).then(|| demand.clone());
                let is_new = events::task::status(&record);
                let timing = Timing::new(&id, arrived);
                for (name, begins, ends) in [("admission", arrived, admitted), ("store", admitted, stored)] {
                    timing.note(Phase { name, part_of: None, container: None, begins, ends });
                }
                let driver = shared.driver(id, record, demand, Some(Arc::new(timing)));
                // Once it can be found and before it changes.
                shared.events.tell(is_new);
                tokio::spawn(driver.run());
            }
            shared.admit();
            shared.changed();
            Ok(RunTaskResponse { tasks, failures: Vec::new() })
        })
        .await
    }

    /// What an earlier request with this token was answered, as it is now.
    async fn repeated(&self, token: &str, digest: &[u8]) -> Result<Option<RunTaskResponse>, EngineError> {
        let (shared, token) = (self.shared.clone(), token.to_owned());
        let record =
            blocking(move || shared.store.token(shared.names.cluster(), &token).map_err(EngineError::from)).await?;
        let Some(record) = record else { return Ok(None) };
        if record.request != digest {
            return Err(EngineError::Conflict { tasks: record.tasks });
        }
        let ids: Vec<TaskId> = record.tasks.iter().filter_map(|id| TaskId::parse(id)).collect();
        let tasks = ids.iter().filter_map(|id| self.shared.record(id)).map(|record| record.task.clone()).collect();
        Ok(Some(RunTaskResponse { tasks, failures: Vec::new() }))
    }

    /// Why the tasks get no user namespace. Looks at the file systems of what the host shares with them.
    async fn user_namespace_off(&self, spec: &TaskSpec) -> Result<Option<&'static str>, EngineError> {
        let (shared, spec) = (self.shared.clone(), spec.clone());
        if !spec.volumes.iter().any(|volume| matches!(volume.source, VolumeSource::Host(_))) {
            return Ok(provision::user_namespace_off(&shared.config.root, &spec));
        }
        // Each look at a dead file server holds a thread, whether or not its client still waits, and threads for all
        // else must be left. Nobody closes the semaphore.
        let look = self.looks.clone().acquire_owned().await;
        blocking(move || {
            let _until_it_is_over = look;
            Ok(provision::user_namespace_off(&shared.config.root, &spec))
        })
        .await
    }

    async fn definition_to_run(&self, request: &RunTaskRequest) -> Result<DefinitionRecord, EngineError> {
        let refused = |message: &str| EngineError::Client { message: message.to_owned() };
        let Some(name) = request.task_definition.as_deref().filter(|name| !name.is_empty()) else {
            let message = "taskDefinition can not be blank.".to_owned();
            return Err(EngineError::InvalidParameter { field: "taskDefinition", message });
        };
        let record = self.find_definition(name).await?.ok_or_else(|| refused("TaskDefinition not found."))?;
        if record.definition.status() != "ACTIVE" {
            return Err(refused("TaskDefinition is inactive"));
        }
        Ok(record)
    }

    /// The tasks' tags: the request's, then the definition's where they are propagated, then ECS's own.
    fn tags(&self, request: &RunTaskRequest, of_definition: Vec<Tag>) -> Vec<Tag> {
        let mut tags = request.tags.clone();
        if request.propagate_tags() == "TASK_DEFINITION" {
            tags.extend(of_definition.into_iter().filter(|tag| request.tags.iter().all(|given| given.key != tag.key)));
        }
        if request.enable_ecs_managed_tags() {
            let (key, value) = ("aws:ecs:clusterName".to_owned(), self.shared.names.cluster().to_owned());
            tags.push(Tag { key: Some(key), value: Some(value) });
        }
        tags
    }

    /// Why no task of this kind can ever run here, in RunTask's words.
    fn cannot_be_placed(&self, spec: &TaskSpec) -> Option<Failure> {
        let arn = self.container_instance().container_instance_arn;
        if let Some(wanted) = spec.cpu_architecture.filter(|wanted| *wanted != CpuArchitecture::HOST) {
            let host = CpuArchitecture::HOST.as_str();
            let detail = format!("ecs.cpu-architecture is {host}, the task requires {}", wanted.as_str());
            return Some(Failure { arn, reason: Some("ATTRIBUTE".to_owned()), detail: Some(detail) });
        }
        let shortage = self.shared.ledger().fits_host(&Demand::of(spec)).err()?;
        Some(Failure { arn, reason: Some(shortage.reason().to_owned()), detail: None })
    }

    fn record(
        &self,
        request: &RunTaskRequest,
        definition: &TaskDefinition,
        spec: &TaskSpec,
        tags: &[Tag],
    ) -> (TaskId, TaskRecord) {
        let id = TaskId::random();
        let names = &self.shared.names;
        let amount = |amount: Option<u32>| amount.map(|amount| amount.to_string());
        let containers = spec
            .containers
            .iter()
            .map(|container| Container {
                container_arn: Some(names.container_arn(&id, &uuid::Uuid::new_v4().to_string())),
                task_arn: Some(names.task_arn(&id)),
                name: Some(container.name.clone()),
                image: Some(container.image.clone()),
                runtime_id: Some(runtime_id(id.as_str(), &container.name)),
                last_status: Some("PENDING".to_owned()),
                health_status: Some("UNKNOWN".to_owned()),
                cpu: Some(container.cpu_units.to_string()),
                memory: amount(container.memory_mib),
                memory_reservation: amount(container.memory_reservation_mib),
                ..Container::default()
            })
            .collect();
        let now = Some(now());
        let task = Task {
            task_arn: Some(names.task_arn(&id)),
            cluster_arn: Some(names.cluster_arn()),
            task_definition_arn: definition.task_definition_arn.clone(),
            container_instance_arn: self.container_instance().container_instance_arn,
            last_status: Some(Status::Provisioning.as_str().to_owned()),
            desired_status: Some("RUNNING".to_owned()),
            health_status: Some("UNKNOWN".to_owned()),
            connectivity: Some("CONNECTED".to_owned()),
            connectivity_at: now,
            created_at: now,
            containers,
            overrides: request.overrides.clone(),
            group: request.group.clone().or_else(|| Some(format!("family:{}", spec.family))),
            started_by: request.started_by.clone(),
            launch_type: Some(request.launch_type.clone().unwrap_or_else(|| "EC2".to_owned())),
            enable_execute_command: Some(request.enable_execute_command.unwrap_or(false)),
            cpu: amount(spec.cpu_units),
            memory: amount(spec.memory_mib),
            ephemeral_storage: ephemeral_storage(spec),
            version: Some(1),
            tags: tags.to_vec(),
            ..Task::default()
        };
        let stages = vec![Stage::Waiting as i32; spec.containers.len()];
        (id, TaskRecord { task, definition: definition.clone(), stages, ..TaskRecord::default() })
    }
}

impl Shared {
    /// Lets a new task in at once where there is room: what is stored first then says so, and its driver begins with the
    /// work. Otherwise the driver waits.
    fn enter(&self, id: &TaskId, record: &mut TaskRecord, demand: &Demand) {
        if !self.ledger().enter(id, demand) {
            return;
        }
        if !self.give_user_namespace(record) {
            // The driver tells why, once it gets as far.
            return self.ledger().release(id);
        }
        record.admitted = true;
        record.task.last_status = Some(Status::Pending.as_str().to_owned());
        record.task.pull_started_at = Some(now());
    }

    /// Undoes [`Shared::enter`].
    fn leave(&self, id: &TaskId, record: &mut TaskRecord) {
        if let Some(slot) = record.user_slot.take() {
            self.user_slots().give_back(slot);
        }
        self.release(id);
    }

    /// A range of ids of its own, unless it was accepted without. False when none is free: a task never goes without for
    /// want of one.
    pub(crate) fn give_user_namespace(&self, record: &mut TaskRecord) -> bool {
        if record.task.attributes.iter().any(|attribute| attribute.name() == USER_NAMESPACE) {
            return true;
        }
        record.user_slot = self.user_slots().take();
        record.user_slot.is_some()
    }
}

/// Tells why the task gets no user namespace, in its attributes.
fn without_user_namespace(record: &mut TaskRecord, reason: &str) {
    let (name, value) = (Some(USER_NAMESPACE.to_owned()), Some(format!("off:{reason}")));
    record.task.attributes.push(Attribute { name, value, ..Attribute::default() });
}

fn ephemeral_storage(spec: &TaskSpec) -> Option<EphemeralStorage> {
    let size = i32::try_from(spec.ephemeral_storage_gib?).ok();
    Some(EphemeralStorage { size_in_gi_b: size })
}

fn checked(request: &RunTaskRequest, definition: &TaskDefinition) -> Result<TaskSpec, EngineError> {
    let invalid = |problems| EngineError::Invalid { problems };
    let problems = check_run_task(request, definition);
    if !problems.is_empty() {
        return Err(invalid(problems));
    }
    let spec = definition::check(&definition::request(definition)).map_err(invalid)?;
    match &request.overrides {
        Some(overrides) => with_overrides(&spec, overrides).map_err(invalid),
        None => Ok(spec),
    }
}
