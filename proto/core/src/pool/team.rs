//! Who may have how much: the teams of a GPU server.

use super::Millis;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Teams of one GPU server, at most.
pub const MOST_TEAMS: usize = 64;

/// A team: nodes that share a quota.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Team {
    /// Its name.
    pub name: String,
    /// Names of nodes; `*` stands for any text: `notebook-*`.
    pub members: Vec<String>,
    /// GPUs that it may hold at once.
    pub gpus: u32,
    /// GPUs of one lease, at most; absent: as many as the team may hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_lease: Option<u32>,
    /// How long one lease may last, milliseconds; absent: as long as it likes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub longest: Option<Millis>,
    /// Its part against other teams': one of weight 2 gets twice as much where all wait.
    pub weight: u32,
}

/// What the fleet file says of a GPU server's use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Policy {
    /// The teams. A node belongs to the first that names it.
    pub teams: Vec<Team>,
    /// How long a lease may do nothing, milliseconds; absent: for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_release: Option<Millis>,
}

impl Policy {
    /// Whether it is right in itself.
    ///
    /// # Errors
    /// The team, and what is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        if self.teams.len() > MOST_TEAMS {
            return Err(format!("{} teams: at most {MOST_TEAMS} share a GPU server", self.teams.len()));
        }
        for (at, team) in self.teams.iter().enumerate() {
            let wrong = |why: &str| Err(format!("team `{}`: {why}", team.name));
            if team.name.is_empty() {
                return Err("a team has no name".into());
            }
            if self.teams[..at].iter().any(|other| other.name == team.name) {
                return wrong("there are two of that name");
            }
            if team.weight == 0 || team.weight > 1000 {
                return wrong("`weight` is a number from 1 to 1000");
            }
            if team.gpus == 0 {
                return wrong("`gpus: 0` would let it wait for ever");
            }
            if team.per_lease == Some(0) {
                return wrong("`per-lease: 0` would let it have none");
            }
            if team.longest == Some(0) {
                return wrong("`longest: 0` would end each lease at once");
            }
        }
        if self.idle_release == Some(0) {
            return Err("`idle-release: 0` would end each lease at once; leave it out for never".into());
        }
        Ok(())
    }

    /// The team of a node: its index.
    pub fn team_of(&self, node: &str) -> Option<usize> {
        self.teams.iter().position(|team| team.members.iter().any(|pattern| matches(pattern, node)))
    }
}

/// Whether a name is what a pattern with `*` means. Linear in both: a pattern of many stars costs nothing.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}
