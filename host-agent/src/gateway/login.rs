//! A session for the gateway's file, and what is wrong in words that name the file.

use super::config::{Config, changed, password};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;
use vsgpu_vsphere::inventory::{Host, belongings, hosts};
use vsgpu_vsphere::session::{About, Account, REFUSED};
use vsgpu_vsphere::{Fault, Session};

/// How old the password file was when it was read last.
pub(super) type AskedWith = Arc<Mutex<Option<SystemTime>>>;

pub(super) fn begin(config: &Config, asked_with: &AskedWith) -> Result<Session, Fault> {
    let (file, asked_with) = (config.password_file.clone(), asked_with.clone());
    let read = move || {
        // Before it is read: one that is written meanwhile is a new one.
        *asked_with.lock().unwrap_or_else(PoisonError::into_inner) = changed(&file);
        password(&file)
    };
    let account = Account { user: config.user.clone(), password: Box::new(read) };
    let is_expected = |about: &About| {
        let (is, key) = if about.is_vcenter { ("a vCenter", "vcenter") } else { ("a host", "esxi") };
        match about.is_vcenter == config.is_vcenter {
            true => Ok(()),
            false => {
                Err(format!("{}: this is {is}: `{key} = {}` is expected", config.address, config.address))
            }
        }
    };
    Session::begin(&config.address, config.trust.as_ref(), account, is_expected)
}

/// The hosts that the file names, without what belongs to them.
pub(super) fn named_hosts(config: &Config, session: &mut Session) -> Result<Vec<Host>, Fault> {
    hosts(session, |name, cluster| {
        !config.is_vcenter
            || config.hosts.iter().any(|host| host == name)
            || cluster.is_some_and(|of| config.clusters.iter().any(|cluster| cluster == of))
    })
}

/// The same with their VMs, datastores, networks and GPUs.
pub(super) fn whole_hosts(config: &Config, session: &mut Session) -> Result<Vec<Host>, String> {
    let whole = |session: &mut Session| {
        let mut found = named_hosts(config, session)?;
        belongings(session, &mut found)?;
        Ok(found)
    };
    whole(session).map_err(|fault| told(config, &fault))
}

pub(super) fn told(config: &Config, fault: &Fault) -> String {
    if fault.is_unheard() {
        return fault.said.join(": ");
    }
    match fault.kind.as_str() {
        REFUSED => format!(
            "{} refuses {} with the password of {}.{}\nuser or password is wrong, or the account is locked. Each try counts towards its lock:\nlog in once with the vSphere Client before the next.",
            config.address,
            config.user,
            config.password_file.display(),
            if config.password_has_space { " The password begins or ends with a space." } else { "" }
        ),
        _ => format!("{}: {fault}", config.address),
    }
}
