//! What can be addressed: hosts, VMs, the Linux inside VMs; and how each is reached.

use serde::{Deserialize, Serialize};
use vsgpu_core::Scope;
use vsgpu_wire::client::Target;

/// What is to be addressed: a host, a VM through its host, or the Linux inside a VM.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct NodeId {
    /// `host`, `vm` or `guest`.
    pub kind: NodeKind,
    /// Name in the fleet file.
    pub name: String,
}

/// Kind of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NodeKind {
    Host,
    /// VM, reached through its host.
    Vm,
    /// Linux in a VM.
    Guest,
}

impl NodeKind {
    const ALL: [(Self, &'static str, Scope); 3] = [
        (Self::Host, "host", Scope::Host),
        (Self::Vm, "vm", Scope::Vm),
        (Self::Guest, "guest", Scope::Guest),
    ];

    /// The word for it.
    pub fn word(self) -> &'static str {
        Self::ALL[self as usize].1
    }

    /// The scope of its requirements.
    pub fn scope(self) -> Scope {
        Self::ALL[self as usize].2
    }
}

impl NodeId {
    pub fn new(kind: NodeKind, name: &str) -> Self {
        Self { kind, name: name.into() }
    }
}

impl std::fmt::Display for NodeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.kind {
            NodeKind::Guest => write!(f, "{} (guest)", self.name),
            NodeKind::Host | NodeKind::Vm => f.write_str(&self.name),
        }
    }
}

impl From<NodeId> for String {
    fn from(id: NodeId) -> Self {
        format!("{}/{}", id.kind.word(), id.name)
    }
}

impl TryFrom<String> for NodeId {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let (word, name) = text.split_once('/').ok_or("no node")?;
        let (kind, ..) = NodeKind::ALL.into_iter().find(|(_, w, _)| *w == word).ok_or("no node")?;
        Ok(Self::new(kind, name))
    }
}

/// How a node is reached: its agent's address, that agent's name and role, and the VM's display name where a
/// VM is meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reach {
    /// `host:port`.
    pub address: String,
    /// Name in the agent's certificate.
    pub node: String,
    /// `host` or `guest`.
    pub role: String,
    /// Display name of the VM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<String>,
}

impl Reach {
    /// As the client wants it.
    pub fn target(&self) -> Target {
        Target {
            address: self.address.clone(),
            node: self.node.clone(),
            role: if self.role == "guest" { "guest" } else { "host" },
        }
    }
}
