//! What survives the agent: definitions, tasks, client tokens and the host's identity, in one redb file. One
//! transaction per change, durable when it returns. Values are wire messages or records in an envelope of one format
//! byte. All methods block on the disk.

use std::path::{Path, PathBuf};

use prost::Message;
use proto::v1::{ContainerInstance, TaskDefinition};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use crate::identity::TaskId;
use crate::task::TaskRecord;

/// Leads every value; a larger one is refused.
const FORMAT: u8 = 1;

const DEFINITIONS: TableDefinition<(&str, i32), &[u8]> = TableDefinition::new("definitions");
const TASKS: TableDefinition<(&str, &str), &[u8]> = TableDefinition::new("tasks");
const TOKENS: TableDefinition<(&str, &str), &[u8]> = TableDefinition::new("tokens");
const HOST: TableDefinition<&str, &[u8]> = TableDefinition::new("host");
const INSTANCE: &str = "container-instance";

/// Why the store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be opened or is damaged.
    #[error("cannot open the store {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The store's answer.
        #[source]
        source: Box<redb::Error>,
    },
    /// A transaction failed; nothing of it is kept.
    #[error("the store failed")]
    Transaction(#[source] Box<redb::Error>),
    /// Written by a newer agent.
    #[error("a {what} in the store has format {format}, newer than this agent's {FORMAT}")]
    Newer {
        /// Which kind.
        what: &'static str,
        /// Its format.
        format: u8,
    },
    /// Not what this agent writes.
    #[error("a {what} in the store cannot be read")]
    Damaged {
        /// Which kind.
        what: &'static str,
    },
}

fn transaction(error: impl Into<redb::Error>) -> StoreError {
    StoreError::Transaction(Box::new(error.into()))
}

/// What a client token stands for.
#[derive(Clone, PartialEq, Message)]
pub struct TokenRecord {
    /// SHA-256 of the request without the token.
    #[prost(bytes = "vec", tag = "1")]
    pub request: Vec<u8>,
    /// The tasks it made.
    #[prost(string, repeated, tag = "2")]
    pub tasks: Vec<String>,
}

/// The agent's database.
#[derive(Debug)]
pub struct Store {
    database: Database,
}

impl Store {
    /// Opens or makes the file.
    pub fn open(path: &Path) -> Result<Store, StoreError> {
        let failed = |source: redb::Error| StoreError::Open { path: path.to_owned(), source: Box::new(source) };
        let database = Database::create(path).map_err(|error| failed(error.into()))?;
        let write = database.begin_write().map_err(|error| failed(error.into()))?;
        for made in [write.open_table(TASKS).map(drop), write.open_table(TOKENS).map(drop)] {
            made.map_err(|error| failed(error.into()))?;
        }
        write.open_table(DEFINITIONS).map_err(|error| failed(error.into()))?;
        write.open_table(HOST).map_err(|error| failed(error.into()))?;
        write.commit().map_err(|error| failed(error.into()))?;
        Ok(Store { database })
    }

    /// All definitions, by family and revision.
    pub fn definitions(&self) -> Result<Vec<TaskDefinition>, StoreError> {
        let read = self.database.begin_read().map_err(transaction)?;
        let table = read.open_table(DEFINITIONS).map_err(transaction)?;
        let rows = table.iter().map_err(transaction)?;
        rows.map(|row| decode("task definition", row.map_err(transaction)?.1.value())).collect()
    }

    /// Adds or replaces a definition; its family and revision are its key.
    pub fn put_definition(&self, definition: &TaskDefinition) -> Result<(), StoreError> {
        let key = (definition.family(), definition.revision());
        let write = self.database.begin_write().map_err(transaction)?;
        let mut table = write.open_table(DEFINITIONS).map_err(transaction)?;
        table.insert(key, encode(definition).as_slice()).map_err(transaction)?;
        drop(table);
        write.commit().map_err(transaction)
    }

    /// All tasks of the cluster.
    pub fn tasks(&self, cluster: &str) -> Result<Vec<TaskRecord>, StoreError> {
        let read = self.database.begin_read().map_err(transaction)?;
        let table = read.open_table(TASKS).map_err(transaction)?;
        let mut tasks = Vec::new();
        for row in table.range((cluster, "")..).map_err(transaction)? {
            let (key, value) = row.map_err(transaction)?;
            if key.value().0 != cluster {
                break;
            }
            tasks.push(decode("task", value.value())?);
        }
        Ok(tasks)
    }

    /// Adds new tasks, and the token that made them, at once.
    pub fn add_tasks(
        &self,
        cluster: &str,
        tasks: &[(TaskId, TaskRecord)],
        token: Option<(&str, TokenRecord)>,
    ) -> Result<(), StoreError> {
        let write = self.database.begin_write().map_err(transaction)?;
        let mut table = write.open_table(TASKS).map_err(transaction)?;
        for (id, record) in tasks {
            table.insert((cluster, id.as_str()), encode(record).as_slice()).map_err(transaction)?;
        }
        drop(table);
        if let Some((token, record)) = token {
            let mut table = write.open_table(TOKENS).map_err(transaction)?;
            table.insert((cluster, token), encode(&record).as_slice()).map_err(transaction)?;
        }
        write.commit().map_err(transaction)
    }

    /// Replaces one task.
    pub fn put_task(&self, cluster: &str, id: &TaskId, record: &TaskRecord) -> Result<(), StoreError> {
        self.add_tasks(cluster, &[(id.clone(), record.clone())], None)
    }

    /// Forgets tasks, and the tokens that stand for nothing else.
    pub fn remove_tasks(&self, cluster: &str, ids: &[TaskId]) -> Result<(), StoreError> {
        let write = self.database.begin_write().map_err(transaction)?;
        let mut table = write.open_table(TASKS).map_err(transaction)?;
        for id in ids {
            table.remove((cluster, id.as_str())).map_err(transaction)?;
        }
        drop(table);
        let mut tokens = write.open_table(TOKENS).map_err(transaction)?;
        let gone = |token: &TokenRecord| token.tasks.iter().all(|task| ids.iter().any(|id| id.as_str() == task));
        tokens
            .retain(|_, value| decode::<TokenRecord>("token", value).map_or(true, |token| !gone(&token)))
            .map_err(transaction)?;
        drop(tokens);
        write.commit().map_err(transaction)
    }

    /// What a client token stands for.
    pub fn token(&self, cluster: &str, token: &str) -> Result<Option<TokenRecord>, StoreError> {
        let read = self.database.begin_read().map_err(transaction)?;
        let table = read.open_table(TOKENS).map_err(transaction)?;
        let value = table.get((cluster, token)).map_err(transaction)?;
        value.map(|value| decode("token", value.value())).transpose()
    }

    /// The host's record, made at the first start.
    pub fn instance(&self) -> Result<Option<ContainerInstance>, StoreError> {
        let read = self.database.begin_read().map_err(transaction)?;
        let table = read.open_table(HOST).map_err(transaction)?;
        let value = table.get(INSTANCE).map_err(transaction)?;
        value.map(|value| decode("container instance", value.value())).transpose()
    }

    /// Replaces the host's record.
    pub fn put_instance(&self, instance: &ContainerInstance) -> Result<(), StoreError> {
        let write = self.database.begin_write().map_err(transaction)?;
        let mut table = write.open_table(HOST).map_err(transaction)?;
        table.insert(INSTANCE, encode(instance).as_slice()).map_err(transaction)?;
        drop(table);
        write.commit().map_err(transaction)
    }
}

fn encode(message: &impl Message) -> Vec<u8> {
    let mut bytes = vec![FORMAT];
    bytes.extend(message.encode_to_vec());
    bytes
}

fn decode<T: Message + Default>(what: &'static str, bytes: &[u8]) -> Result<T, StoreError> {
    match bytes.split_first() {
        Some((&FORMAT, message)) => T::decode(message).map_err(|_| StoreError::Damaged { what }),
        Some((&format, _)) if format > FORMAT => Err(StoreError::Newer { what, format }),
        _ => Err(StoreError::Damaged { what }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_survive_and_tokens_go_with_the_last_of_theirs() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("db");
        let ids = [TaskId::random(), TaskId::random()];
        {
            let store = Store::open(&path).unwrap();
            let tasks: Vec<_> = ids.iter().map(|id| (id.clone(), TaskRecord::default())).collect();
            let token = TokenRecord { request: vec![1], tasks: ids.iter().map(ToString::to_string).collect() };
            store.add_tasks("default", &tasks, Some(("t", token))).unwrap();
            store.put_task("other", &ids[0], &TaskRecord::default()).unwrap();
        }
        let store = Store::open(&path).unwrap();
        assert_eq!(store.tasks("default").unwrap().len(), 2);
        store.remove_tasks("default", &ids[..1]).unwrap();
        assert_eq!(store.token("default", "t").unwrap().unwrap().tasks.len(), 2);
        store.remove_tasks("default", &ids).unwrap();
        assert_eq!(store.token("default", "t").unwrap(), None);
        assert_eq!(store.tasks("other").unwrap().len(), 1);
    }

    #[test]
    fn newer_formats_are_refused() {
        assert!(matches!(decode::<TokenRecord>("token", &[2]), Err(StoreError::Newer { format: 2, .. })));
        assert!(matches!(decode::<TokenRecord>("token", &[]), Err(StoreError::Damaged { .. })));
    }
}
