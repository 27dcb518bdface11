//! What survives the agent: definitions, tasks, client tokens and the host's identity, in one redb file. One
//! transaction per change, durable when it returns. Values are wire messages or records in an envelope of one format
//! byte. All methods block on the disk.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};
use std::time::Instant;

use prometheus_client::metrics::histogram::Histogram;
use prost::Message;
use proto::v1::{ContainerInstance, Tag, TaskDefinition};
use redb::backends::{FileBackend, InMemoryBackend};
use redb::{
    Database, ReadTransaction, ReadableDatabase, ReadableTable, StorageBackend as _, TableDefinition, WriteTransaction,
};

use crate::identity::TaskId;
use crate::metrics::durations;
use crate::task::TaskRecord;

/// Leads every value; a larger one is refused.
const FORMAT: u8 = 1;
const FILE_MODE: u32 = 0o600;
/// Bytes of pages in memory; the kernel has the others. redb would take 1 GiB by and by.
const CACHE: usize = 1 << 20;

const DEFINITIONS: TableDefinition<(&str, i32), &[u8]> = TableDefinition::new("task-definitions");
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
    #[error("a {what} in the store {} has format {format}, newer than this agent's {FORMAT}", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Which kind.
        what: &'static str,
        /// Its format.
        format: u8,
    },
    /// Not what this agent writes.
    #[error("a {what} in the store {} is damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Which kind.
        what: &'static str,
    },
}

impl StoreError {
    fn is_io(&self) -> bool {
        matches!(self, StoreError::Transaction(error) if matches!(**error, redb::Error::Io(_) | redb::Error::PreviousIo))
    }
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

/// A registered definition with what is kept beside it.
#[derive(Clone, PartialEq, Message)]
pub struct DefinitionRecord {
    /// What DescribeTaskDefinition answers.
    #[prost(message, required, tag = "1")]
    pub definition: TaskDefinition,
    /// Its tags.
    #[prost(message, repeated, tag = "2")]
    pub tags: Vec<Tag>,
}

/// The agent's database.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    /// Absent after an I/O error, as of a full disk: redb refuses everything then until the file is opened anew.
    database: RwLock<Option<Database>>,
    /// What durable changes take, seconds.
    writes: Histogram,
}

impl Store {
    /// Opens or makes the file. One that is damaged is left as it is.
    pub fn open(path: &Path) -> Result<Store, StoreError> {
        prove(path).map_err(|source| StoreError::Open { path: path.to_owned(), source: Box::new(source) })?;
        Ok(Store { path: path.to_owned(), database: RwLock::new(Some(open(path)?)), writes: durations() })
    }

    /// What durable changes take, the waiting for one another included.
    pub(crate) fn writes(&self) -> Histogram {
        self.writes.clone()
    }

    fn with<T>(&self, work: impl FnOnce(&Database) -> Result<T, StoreError>) -> Result<T, StoreError> {
        // Shared even by writers, which redb has wait for one another: nobody waits to read until a write is durable.
        let result = loop {
            if let Some(opened) = &*self.database.read().unwrap_or_else(PoisonError::into_inner) {
                break work(opened);
            }
            let mut absent = self.database.write().unwrap_or_else(PoisonError::into_inner);
            if absent.is_none() {
                *absent = Some(open(&self.path)?);
            }
        };
        if result.as_ref().is_err_and(StoreError::is_io) {
            *self.database.write().unwrap_or_else(PoisonError::into_inner) = None;
        }
        result
    }

    fn read<T>(&self, work: impl FnOnce(&ReadTransaction) -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.with(|database| work(&database.begin_read().map_err(transaction)?))
    }

    fn write(&self, work: impl FnOnce(&WriteTransaction) -> Result<(), StoreError>) -> Result<(), StoreError> {
        let began = Instant::now();
        let written = self.with(|database| {
            let write = database.begin_write().map_err(transaction)?;
            work(&write)?;
            write.commit().map_err(transaction)
        });
        self.writes.observe(began.elapsed().as_secs_f64());
        written
    }

    fn decode<T: Message + Default>(&self, what: &'static str, bytes: &[u8]) -> Result<T, StoreError> {
        let damaged = || StoreError::Damaged { path: self.path.clone(), what };
        match bytes.split_first() {
            Some((&FORMAT, message)) => T::decode(message).map_err(|_| damaged()),
            Some((&format, _)) if format > FORMAT => Err(StoreError::Newer { path: self.path.clone(), what, format }),
            _ => Err(damaged()),
        }
    }

    /// All definitions, by family and revision.
    pub fn definitions(&self) -> Result<Vec<DefinitionRecord>, StoreError> {
        self.read(|read| {
            let table = read.open_table(DEFINITIONS).map_err(transaction)?;
            let rows = table.iter().map_err(transaction)?;
            rows.map(|row| self.decode("task definition", row.map_err(transaction)?.1.value())).collect()
        })
    }

    /// One definition.
    pub fn definition(&self, family: &str, revision: i32) -> Result<Option<DefinitionRecord>, StoreError> {
        self.read(|read| {
            let table = read.open_table(DEFINITIONS).map_err(transaction)?;
            let value = table.get((family, revision)).map_err(transaction)?;
            value.map(|value| self.decode("task definition", value.value())).transpose()
        })
    }

    /// Adds or replaces a definition; its family and revision are its key.
    pub fn put_definition(&self, record: &DefinitionRecord) -> Result<(), StoreError> {
        let key = (record.definition.family(), record.definition.revision());
        self.write(|write| {
            let mut table = write.open_table(DEFINITIONS).map_err(transaction)?;
            table.insert(key, encode(record).as_slice()).map(drop).map_err(transaction)
        })
    }

    /// All tasks of the cluster.
    pub fn tasks(&self, cluster: &str) -> Result<Vec<TaskRecord>, StoreError> {
        self.read(|read| {
            let table = read.open_table(TASKS).map_err(transaction)?;
            let mut tasks = Vec::new();
            for row in table.range((cluster, "")..).map_err(transaction)? {
                let (key, value) = row.map_err(transaction)?;
                if key.value().0 != cluster {
                    break;
                }
                tasks.push(self.decode("task", value.value())?);
            }
            Ok(tasks)
        })
    }

    /// Adds new tasks, and the token that made them, at once.
    pub fn add_tasks(
        &self,
        cluster: &str,
        tasks: &[(TaskId, TaskRecord)],
        token: Option<(&str, TokenRecord)>,
    ) -> Result<(), StoreError> {
        self.write(|write| {
            let mut table = write.open_table(TASKS).map_err(transaction)?;
            for (id, record) in tasks {
                table.insert((cluster, id.as_str()), encode(record).as_slice()).map_err(transaction)?;
            }
            if let Some((token, record)) = token {
                let mut table = write.open_table(TOKENS).map_err(transaction)?;
                table.insert((cluster, token), encode(&record).as_slice()).map_err(transaction)?;
            }
            Ok(())
        })
    }

    /// Replaces one task, unless what is stored has a later version: whoever saves again what could not be saved may
    /// come late.
    pub fn put_task(&self, cluster: &str, id: &TaskId, record: &TaskRecord) -> Result<(), StoreError> {
        let key = (cluster, id.as_str());
        self.write(|write| {
            let mut table = write.open_table(TASKS).map_err(transaction)?;
            let stored = table.get(key).map_err(transaction)?;
            let stored = stored.map(|stored| self.decode::<TaskRecord>("task", stored.value())).transpose()?;
            if stored.is_some_and(|stored| stored.task.version() > record.task.version()) {
                return Ok(());
            }
            table.insert(key, encode(record).as_slice()).map(drop).map_err(transaction)
        })
    }

    /// Forgets tasks, and the tokens that stand for nothing else.
    pub fn remove_tasks(&self, cluster: &str, ids: &[TaskId]) -> Result<(), StoreError> {
        self.write(|write| {
            let mut table = write.open_table(TASKS).map_err(transaction)?;
            for id in ids {
                table.remove((cluster, id.as_str())).map_err(transaction)?;
            }
            let mut tokens = write.open_table(TOKENS).map_err(transaction)?;
            let gone = |token: &TokenRecord| token.tasks.iter().all(|task| ids.iter().any(|id| id.as_str() == task));
            tokens
                .retain(|_, value| self.decode::<TokenRecord>("token", value).map_or(true, |token| !gone(&token)))
                .map_err(transaction)
        })
    }

    /// What a client token stands for.
    pub fn token(&self, cluster: &str, token: &str) -> Result<Option<TokenRecord>, StoreError> {
        self.read(|read| {
            let table = read.open_table(TOKENS).map_err(transaction)?;
            let value = table.get((cluster, token)).map_err(transaction)?;
            value.map(|value| self.decode("token", value.value())).transpose()
        })
    }

    /// The host's record, made at the first start.
    pub fn instance(&self) -> Result<Option<ContainerInstance>, StoreError> {
        self.read(|read| {
            let table = read.open_table(HOST).map_err(transaction)?;
            let value = table.get(INSTANCE).map_err(transaction)?;
            value.map(|value| self.decode("container instance", value.value())).transpose()
        })
    }

    /// Replaces the host's record.
    pub fn put_instance(&self, instance: &ContainerInstance) -> Result<(), StoreError> {
        self.write(|write| {
            let mut table = write.open_table(HOST).map_err(transaction)?;
            table.insert(INSTANCE, encode(instance).as_slice()).map(drop).map_err(transaction)
        })
    }
}

/// The file appears whole or not at all: one that is there and is no store is damaged, and its tasks are not to be
/// taken for nobody's.
fn open(path: &Path) -> Result<Database, StoreError> {
    let failed = |source: redb::Error| StoreError::Open { path: path.to_owned(), source: Box::new(source) };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => make(path).map_err(failed)?,
        Err(error) => return Err(failed(error.into())),
        Ok(_) => {}
    }
    let file = private_file(path).map_err(|error| failed(error.into()))?;
    open_tables(file).map_err(failed)
}

/// Opens a copy in memory, if there is a file: to be opened changes a file, and one that cannot be repaired has to stay
/// what it is for whoever can. All its checksums have to hold. redb panics over some kinds of damage.
fn prove(path: &Path) -> Result<(), redb::Error> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    if bytes.is_empty() {
        return Err(redb::Error::Corrupted("it is empty".to_owned()));
    }
    let memory = InMemoryBackend::new();
    memory.set_len(bytes.len() as u64)?;
    memory.write(0, &bytes)?;
    drop(bytes);
    let checked = || Ok(Database::builder().create_with_backend(memory)?.check_integrity()?);
    let damaged = path.to_owned();
    let hook = panic::take_hook();
    // All that is told where a panic aborts, as in a release build.
    panic::set_hook(Box::new(move |told| {
        let _best_effort = writeln!(io::stderr(), "neargated: the store {} is damaged: {told}", damaged.display());
    }));
    let checked = panic::catch_unwind(AssertUnwindSafe(checked));
    panic::set_hook(hook);
    match checked {
        Ok(Ok(true)) => Ok(()),
        Ok(Err(error)) => Err(error),
        Ok(Ok(false)) | Err(_) => Err(redb::Error::Corrupted("it is damaged".to_owned())),
    }
}

fn make(path: &Path) -> Result<(), redb::Error> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let temporary = Path::new(&name);
    let file = private_file(temporary)?;
    // What a killed agent has left of an earlier attempt.
    file.set_len(0)?;
    drop(open_tables(file)?);
    fs::rename(temporary, path)?;
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()?;
    Ok(())
}

fn open_tables(file: File) -> Result<Database, redb::Error> {
    let database = Database::builder().set_cache_size(CACHE).create_with_backend(FileBackend::new(file)?)?;
    let write = database.begin_write()?;
    write.open_table(TASKS)?;
    write.open_table(TOKENS)?;
    write.open_table(DEFINITIONS)?;
    write.open_table(HOST)?;
    write.commit()?;
    Ok(database)
}

/// Definitions and overrides hold passwords in their environments: nobody but root reads them, in a store that an
/// earlier version made either.
fn private_file(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(FILE_MODE).open(path)?;
    file.set_permissions(Permissions::from_mode(FILE_MODE))?;
    Ok(file)
}

fn encode(message: &impl Message) -> Vec<u8> {
    let mut bytes = vec![FORMAT];
    bytes.extend(message.encode_to_vec());
    bytes
}

#[cfg(test)]
mod tests {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};

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
    fn only_the_owner_reads_the_store() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("db");
        let mode = || path.metadata().unwrap().permissions().mode() & 0o777;
        drop(Store::open(&path).unwrap());
        assert_eq!(mode(), FILE_MODE);
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        drop(Store::open(&path).unwrap());
        assert_eq!(mode(), FILE_MODE);
    }

    fn versioned(version: i32) -> TaskRecord {
        let mut record = TaskRecord::default();
        record.task.version = Some(version);
        record
    }

    #[test]
    fn an_older_version_does_not_replace_a_later_one() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("db")).unwrap();
        let id = TaskId::random();
        for version in [1, 3, 2] {
            store.put_task("default", &id, &versioned(version)).unwrap();
        }
        assert_eq!(store.tasks("default").unwrap()[0].task.version(), 3);
    }

    #[test]
    fn a_full_disk_is_got_over() {
        let directory = tempfile::tempdir().unwrap();
        mount(Some("tmpfs"), directory.path(), Some("tmpfs"), MsFlags::empty(), Some("size=8m")).unwrap();
        let store = Store::open(&directory.path().join("db")).unwrap();
        let id = TaskId::random();
        store.put_task("default", &id, &versioned(1)).unwrap();
        let fill = directory.path().join("fill");
        let mut filling = std::fs::File::create(&fill).unwrap();
        while filling.write_all(&[0; 4096]).is_ok() {}
        // Until what the file had room for is used up.
        let mut large = versioned(2);
        large.task.stopped_reason = Some("x".repeat(100_000));
        let another = || store.add_tasks("default", &[(TaskId::random(), large.clone())], None);
        assert!((0..200).any(|_| another().is_err()), "the disk was not full");
        assert!(another().is_err(), "it still is");
        std::fs::remove_file(fill).unwrap();
        drop(filling);
        store.put_task("default", &id, &versioned(3)).unwrap();
        let stored = store.tasks("default").unwrap();
        umount2(directory.path(), MntFlags::MNT_DETACH).unwrap();
        assert!(stored.iter().any(|record| record.task.version() == 3));
    }

    #[test]
    fn newer_formats_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("db");
        let store = Store::open(&path).unwrap();
        for (bytes, words) in [(&[2][..], "has format 2, newer than"), (&[], "is damaged"), (&[1, 255], "is damaged")] {
            let put = store.write(|write| {
                let mut table = write.open_table(TASKS).map_err(transaction)?;
                table.insert(("default", "id"), bytes).map(drop).map_err(transaction)
            });
            put.unwrap();
            let told = store.tasks("default").unwrap_err().to_string();
            assert!(told.contains(words) && told.contains(path.to_str().unwrap()), "{told}");
        }
    }

    /// A store of 40 tasks, closed.
    fn filled(path: &Path) -> Vec<u8> {
        let store = Store::open(path).unwrap();
        let mut record = versioned(1);
        record.task.stopped_reason = Some("x".repeat(2000));
        let tasks: Vec<_> = (0..40).map(|_| (TaskId::random(), record.clone())).collect();
        store.add_tasks("default", &tasks, None).unwrap();
        drop(store);
        fs::read(path).unwrap()
    }

    #[test]
    fn what_is_damaged_is_refused_and_left_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let whole = filled(&directory.path().join("db"));
        let path = directory.path().join("damaged");
        let look = |bytes: &[u8]| {
            File::create(&path).unwrap().write_all(bytes).unwrap();
            let tasks = Store::open(&path).and_then(|store| store.tasks("default"));
            match tasks {
                // What was damaged is in use by nothing.
                Ok(tasks) => assert_eq!(tasks.len(), 40),
                Err(error) => {
                    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
                    assert!(fs::read(&path).unwrap() == bytes, "{error}, and the file was changed");
                }
            }
            fs::remove_file(&path).unwrap();
        };
        (0..20).for_each(|part| look(&whole[..whole.len() * part / 20]));
        for at in (0..whole.len()).step_by(whole.len() / 50) {
            let mut bytes = whole.clone();
            bytes[at..(at + 100).min(whole.len())].fill(0xa5);
            look(&bytes);
        }
        look(&whole);
    }
}
