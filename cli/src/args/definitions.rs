//! Options of the commands on task definitions.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// `neargate validate`
#[derive(Debug, Args)]
pub(crate) struct Validate {
    /// Task definitions as JSON; - reads stdin
    #[arg(value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,
}

/// `neargate register`
#[derive(Debug, Args)]
pub(crate) struct Register {
    /// Task definition as JSON; - reads stdin
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
}

/// `neargate definitions`
#[derive(Debug, Args)]
pub(crate) struct Definitions {
    /// Print this one as JSON instead of a list
    #[arg(value_name = "FAMILY[:REVISION]")]
    pub(crate) definition: Option<String>,
    /// Only families that begin like this
    #[arg(long, value_name = "PREFIX")]
    pub(crate) family: Option<String>,
    /// Only revisions in this state
    #[arg(long, ignore_case = true, default_value = "ACTIVE")]
    pub(crate) status: DefinitionStatus,
}

/// States of a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DefinitionStatus {
    /// Starts tasks
    #[value(name = "ACTIVE")]
    Active,
    /// Deregistered
    #[value(name = "INACTIVE")]
    Inactive,
}

impl DefinitionStatus {
    /// The word on the wire.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            DefinitionStatus::Active => "ACTIVE",
            DefinitionStatus::Inactive => "INACTIVE",
        }
    }
}

/// `neargate deregister`
#[derive(Debug, Args)]
pub(crate) struct Deregister {
    /// FAMILY:REVISION or ARN
    #[arg(value_name = "DEFINITION")]
    pub(crate) definition: String,
}
