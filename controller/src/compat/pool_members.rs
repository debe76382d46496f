//! A client is in one team of each of its servers: in none it gets nothing, in two it is not said whose quota
//! counts.

use crate::compat::combination::Finding;
use crate::compat::pool_link::PoolLink;
use vsgpu_core::knowledge::Basis;
use vsgpu_core::pool::Policy;

pub(super) fn check(link: &PoolLink) -> Vec<Finding> {
    let Some(serves) = &link.serves else { return vec![] };
    let PoolLink { client, server, .. } = link;
    let one = |team: &vsgpu_core::pool::Team| Policy { teams: vec![team.clone()], idle_release: None };
    let policy = serves.policy();
    let of: Vec<&str> = policy
        .teams
        .iter()
        .filter(|team| one(team).team_of(client).is_some())
        .map(|team| team.name.as_str())
        .collect();
    let basis = Basis::document("a GPU server gives GPUs to its teams, each with its own quota", true);
    match of.as_slice() {
        [_] => vec![],
        [] => {
            let what = format!("{client} uses GPUs of {server} and is in none of its teams");
            let names: Vec<&str> = policy.teams.iter().map(|team| team.name.as_str()).collect();
            let nearest = format!("name it in `members` of one of: {}", names.join(", "));
            vec![link.finding(what, basis, Some(nearest))]
        }
        several => {
            let what = format!("{client} is in several teams of {server}: {}", several.join(", "));
            vec![link.finding(what, basis, Some("let the `members` of one team name it".into()))]
        }
    }
}
