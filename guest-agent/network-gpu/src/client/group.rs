//! Whether a local user may ask for GPUs: root, and the members of the groups that the fleet file names.

use nix::unistd::{Gid, Group, Uid, User, getgrouplist};

/// A user who may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Caller {
    pub uid: u32,
    pub name: String,
}

/// Looks a user up. May ask a directory service: not for a thread that must go on.
///
/// # Errors
/// A sentence: who may not, and who may.
pub(super) fn caller(uid: u32, gid: u32, groups: &[String]) -> Result<Caller, String> {
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    let name = user.as_ref().map_or_else(|| format!("uid {uid}"), |user| user.name.clone());
    if uid == 0 || is_member(user.as_ref(), gid, groups) {
        return Ok(Caller { uid, name });
    }
    Err(match groups {
        [] => {
            format!("{name} may not ask for GPUs: on this machine only root may (`users` in the fleet file)")
        }
        groups => format!("{name} may not ask for GPUs: it is in none of the groups {}", groups.join(", ")),
    })
}

fn is_member(user: Option<&User>, gid: u32, groups: &[String]) -> bool {
    let allowed: Vec<Gid> =
        groups.iter().filter_map(|name| Some(Group::from_name(name).ok()??.gid)).collect();
    if allowed.contains(&Gid::from_raw(gid)) {
        return true;
    }
    let all = user.and_then(|user| {
        let name = std::ffi::CString::new(user.name.as_str()).ok()?;
        getgrouplist(&name, user.gid).ok()
    });
    all.is_some_and(|all| all.iter().any(|gid| allowed.contains(gid)))
}
