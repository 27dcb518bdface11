//! Who holds what of the host, and who waits for it. Pure: no clock, no kernel.
//!
//! Waiting tasks are admitted oldest first. A smaller one may pass a waiting one, which then is passed at most
//! [`MAX_PASSED`] times before everybody behind it waits too.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use definition::task::{NetworkMode, Protocol, TaskSpec};

use crate::identity::TaskId;

/// How often a waiting task may be passed by later ones.
pub const MAX_PASSED: u32 = 100;

/// A host port.
pub type Port = (Protocol, u16);

/// An amount of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Demand {
    /// 1024 = one processor.
    pub cpu_units: u64,
    /// MiB.
    pub memory_mib: u64,
    /// Host ports, unique.
    pub ports: BTreeSet<Port>,
}

impl Demand {
    /// What placement subtracts for a task (ecs-semantics 1.4).
    pub fn of(task: &TaskSpec) -> Demand {
        let containers = &task.containers;
        let cpu = containers.iter().map(|container| u64::from(container.cpu_units)).sum();
        let memory = containers
            .iter()
            .filter_map(|container| container.memory_reservation_mib.or(container.memory_mib))
            .map(u64::from)
            .sum();
        let ports = containers
            .iter()
            .filter(|_| task.network_mode == NetworkMode::Host)
            .flat_map(|container| &container.port_mappings)
            .map(|port| (port.protocol, port.host_port))
            .collect();
        Demand {
            cpu_units: task.cpu_units.map_or(cpu, u64::from),
            memory_mib: task.memory_mib.map_or(memory, u64::from),
            ports,
        }
    }
}

/// What a task is too large for, in ECS's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shortage {
    /// `RESOURCE:CPU`
    Cpu,
    /// `RESOURCE:MEMORY`
    Memory,
    /// `RESOURCE:PORTS`
    Ports,
}

impl Shortage {
    /// RunTask's failure reason.
    pub fn reason(self) -> &'static str {
        match self {
            Shortage::Cpu => "RESOURCE:CPU",
            Shortage::Memory => "RESOURCE:MEMORY",
            Shortage::Ports => "RESOURCE:PORTS",
        }
    }
}

struct Waiting {
    task: TaskId,
    demand: Demand,
    passed: u32,
}

/// The host's book.
pub struct Ledger {
    total: Demand,
    held: BTreeMap<TaskId, Demand>,
    waiting: VecDeque<Waiting>,
}

impl Ledger {
    /// A host with that much for tasks; `total.ports` are the ports that no task may have.
    pub fn new(total: Demand) -> Ledger {
        Ledger { total, held: BTreeMap::new(), waiting: VecDeque::new() }
    }

    /// Whether the demand could ever be met here.
    pub fn fits_host(&self, demand: &Demand) -> Result<(), Shortage> {
        if demand.cpu_units > self.total.cpu_units {
            Err(Shortage::Cpu)
        } else if demand.memory_mib > self.total.memory_mib {
            Err(Shortage::Memory)
        } else if !demand.ports.is_disjoint(&self.total.ports) {
            Err(Shortage::Ports)
        } else {
            Ok(())
        }
    }

    /// Puts a task at the end of the queue.
    pub fn wait(&mut self, task: TaskId, demand: Demand) {
        self.waiting.push_back(Waiting { task, demand, passed: 0 });
    }

    /// Gives a new task what it demands where that is free and nobody waits for it; false where the task has to wait.
    pub fn enter(&mut self, task: &TaskId, demand: &Demand) -> bool {
        let enters = self.waiting.is_empty() && self.fits_now(demand);
        if enters {
            self.held.insert(task.clone(), demand.clone());
        }
        enters
    }

    /// Gives a task what it held before the agent's restart, whatever is left.
    pub fn hold(&mut self, task: TaskId, demand: Demand) {
        self.held.insert(task, demand);
    }

    /// Takes a task out of the queue or takes back what it holds.
    pub fn release(&mut self, task: &TaskId) {
        self.held.remove(task);
        self.waiting.retain(|waiting| waiting.task != *task);
    }

    /// Admits all that fit now.
    pub fn admit(&mut self) -> Vec<TaskId> {
        let mut admitted = Vec::new();
        let mut index = 0;
        while index < self.waiting.len() {
            if self.fits_now(&self.waiting[index].demand) {
                if let Some(next) = self.waiting.remove(index) {
                    self.held.insert(next.task.clone(), next.demand);
                    admitted.push(next.task);
                }
                for passed in self.waiting.iter_mut().take(index) {
                    passed.passed += 1;
                }
            } else {
                index += 1;
            }
            // Nobody passes one that has been passed often enough.
            if self.waiting.iter().take(index).any(|waiting| waiting.passed >= MAX_PASSED) {
                break;
            }
        }
        admitted
    }

    /// What a waiting task lacks now; None for one that does not wait.
    pub fn lacks(&self, task: &TaskId) -> Option<String> {
        let demand = &self.waiting.iter().find(|waiting| waiting.task == *task)?.demand;
        let (cpu, memory) = self.remaining();
        let mut lacks = Vec::new();
        if demand.cpu_units > cpu {
            lacks.push(format!("CPU: {} units of {cpu} left", demand.cpu_units));
        }
        if demand.memory_mib > memory {
            lacks.push(format!("memory: {} MiB of {memory} left", demand.memory_mib));
        }
        for (protocol, port) in demand.ports.intersection(&self.taken_ports()) {
            lacks.push(format!("host port {port}/{}", protocol.as_str()));
        }
        // It fits, yet whoever has been passed often enough goes first.
        Some(if lacks.is_empty() { "tasks before it".to_owned() } else { lacks.join(", ") })
    }

    /// What is left: CPU units and MiB.
    pub fn remaining(&self) -> (u64, u64) {
        let held = self.in_use();
        (self.total.cpu_units.saturating_sub(held.cpu_units), self.total.memory_mib.saturating_sub(held.memory_mib))
    }

    /// All there is: CPU units and MiB.
    pub fn registered(&self) -> (u64, u64) {
        (self.total.cpu_units, self.total.memory_mib)
    }

    /// Ports that no task may have.
    pub fn reserved_ports(&self) -> &BTreeSet<Port> {
        &self.total.ports
    }

    /// Ports that are reserved or held.
    pub fn taken_ports(&self) -> BTreeSet<Port> {
        self.total.ports.union(&self.in_use().ports).copied().collect()
    }

    fn fits_now(&self, demand: &Demand) -> bool {
        let (cpu, memory) = self.remaining();
        demand.cpu_units <= cpu && demand.memory_mib <= memory && demand.ports.is_disjoint(&self.taken_ports())
    }

    fn in_use(&self) -> Demand {
        let mut sum = Demand::default();
        for demand in self.held.values() {
            sum.cpu_units += demand.cpu_units;
            sum.memory_mib += demand.memory_mib;
            sum.ports.extend(&demand.ports);
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn demand(cpu_units: u64, memory_mib: u64, ports: &[u16]) -> Demand {
        Demand { cpu_units, memory_mib, ports: ports.iter().map(|port| (Protocol::Tcp, *port)).collect() }
    }

    fn ledger() -> Ledger {
        Ledger::new(demand(2048, 1000, &[22]))
    }

    #[test]
    fn too_large_is_told_by_resource() {
        let ledger = ledger();
        assert_eq!(ledger.fits_host(&demand(4096, 1, &[])), Err(Shortage::Cpu));
        assert_eq!(ledger.fits_host(&demand(1, 1001, &[])), Err(Shortage::Memory));
        assert_eq!(ledger.fits_host(&demand(1, 1, &[22])), Err(Shortage::Ports));
        assert_eq!(ledger.fits_host(&demand(2048, 1000, &[80])), Ok(()));
    }

    #[test]
    fn small_passes_large_until_it_has_waited_enough() {
        let mut ledger = ledger();
        let (first, large) = (TaskId::random(), TaskId::random());
        ledger.wait(first.clone(), demand(0, 600, &[]));
        assert_eq!(ledger.admit(), std::slice::from_ref(&first));
        ledger.wait(large.clone(), demand(0, 900, &[]));
        assert_eq!(ledger.admit(), []);
        for _ in 0..MAX_PASSED {
            let small = TaskId::random();
            ledger.wait(small.clone(), demand(0, 10, &[]));
            assert_eq!(ledger.admit(), std::slice::from_ref(&small));
            ledger.release(&small);
        }
        let late = TaskId::random();
        ledger.wait(late.clone(), demand(0, 10, &[]));
        assert_eq!(ledger.admit(), [], "the large one has been passed often enough");
        ledger.release(&first);
        assert_eq!(ledger.admit(), [large, late]);
    }

    #[test]
    fn who_enters_at_once_passes_nobody() {
        let mut ledger = ledger();
        let (first, large, late) = (TaskId::random(), TaskId::random(), TaskId::random());
        assert!(ledger.enter(&first, &demand(0, 600, &[])));
        assert!(!ledger.enter(&large, &demand(0, 900, &[])));
        ledger.wait(large.clone(), demand(0, 900, &[]));
        assert!(!ledger.enter(&late, &demand(0, 10, &[])), "the queue decides who passes");
        ledger.release(&first);
        assert_eq!(ledger.admit(), std::slice::from_ref(&large));
        assert!(ledger.enter(&late, &demand(0, 10, &[])));
    }

    #[test]
    fn a_taken_port_waits() {
        let mut ledger = ledger();
        let (a, b) = (TaskId::random(), TaskId::random());
        ledger.wait(a.clone(), demand(0, 1, &[80]));
        ledger.wait(b.clone(), demand(0, 1, &[80]));
        assert_eq!(ledger.admit(), std::slice::from_ref(&a));
        assert_eq!(ledger.lacks(&b).as_deref(), Some("host port 80/tcp"));
        assert_eq!(ledger.lacks(&a), None);
        ledger.release(&a);
        assert_eq!(ledger.lacks(&b).as_deref(), Some("tasks before it"));
        assert_eq!(ledger.admit(), std::slice::from_ref(&b));
        let large = TaskId::random();
        ledger.wait(large.clone(), demand(2048, 1000, &[]));
        let lacks = ledger.lacks(&large);
        assert_eq!(lacks.as_deref(), Some("memory: 1000 MiB of 999 left"));
    }

    #[test]
    fn what_was_held_before_a_restart_counts() {
        let mut ledger = ledger();
        ledger.hold(TaskId::random(), demand(1024, 990, &[80]));
        assert_eq!(ledger.remaining(), (1024, 10));
        assert!(ledger.taken_ports().contains(&(Protocol::Tcp, 80)));
    }
}
