//! What a gateway has in common for all its hosts: one session with a few connections, and what was read last. Hosts that
//! are asked about at once are read together: a look at five hundred hosts costs some hundred calls, and none for each VM. What takes
//! minutes has connections of its own.

use super::config::{Config, changed};
use super::login::{AskedWith, begin, named_hosts};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use vsgpu_machine::Posix;
use vsgpu_vsphere::clone::{self, Listed};
use vsgpu_vsphere::cluster::{Cluster, clusters};
use vsgpu_vsphere::counters::{self, Reading};
use vsgpu_vsphere::direct_path::remaining;
use vsgpu_vsphere::evacuation::unreserved;
use vsgpu_vsphere::files::{datacenter, tail};
use vsgpu_vsphere::host::{HostDetails, details};
use vsgpu_vsphere::host_methods::{Managers, managers, system_id};
use vsgpu_vsphere::images::{self, Compliance, Image};
use vsgpu_vsphere::inventory::Host;
use vsgpu_vsphere::session::{Handle, REFUSED};
use vsgpu_vsphere::{Fault, Ref, Session};

/// Connections in the one session: for looks, and some that wait for a slow host.
const CONNECTIONS: usize = 8;
/// How long one waits for a connection.
const PATIENCE: Duration = Duration::from_secs(120);
/// And for hosts that are being read.
const LONGEST: Duration = Duration::from_secs(300);
/// How old what was read may be.
const FRESH: Duration = Duration::from_secs(2);
/// The same of what rarely changes, and of counters, which vCenter has every 20 seconds.
const CLUSTERS_FRESH: Duration = Duration::from_secs(60);
/// esxcli's list of components.
const ESXCLI_FRESH: Duration = Duration::from_secs(600);
/// And its refusal.
const REFUSED_FRESH: Duration = Duration::from_secs(60);
/// Connections for calls that take minutes, and how long one waits for such a one.
const APART: usize = 4;
pub(super) const APART_PATIENCE: Duration = Duration::from_secs(3_600);
/// A list of all VMs.
const LIST_FRESH: Duration = Duration::from_secs(10);
const COUNTERS_FRESH: Duration = Duration::from_secs(20);
/// Until a server that was not heard is asked again.
const AGAIN: Duration = Duration::from_secs(5);
const LATER: Duration = Duration::from_secs(60);

/// An answer in a host's own words, or why there is none.
type Said = Result<String, String>;
/// What is known of a host.
type Found = Result<Arc<HostDetails>, Fault>;
/// MiB that each host can still promise.
type Room = Arc<BTreeMap<Ref, u64>>;

/// Everything that hosts of one vCenter (or one standalone ESXi) share.
pub(super) struct Site {
    pub config: Config,
    /// Files that were received for hosts; none for a visit.
    pub files: Option<Posix>,
    /// What of VMs' settings is kept: names in lower case begin so.
    kept: Vec<&'static str>,
    pool: Mutex<Pool>,
    asked_with: AskedWith,
    freed: Condvar,
    read: Mutex<Read>,
    done: Condvar,
    managers: Mutex<BTreeMap<Ref, Managers>>,
    system_ids: Mutex<BTreeMap<Ref, String>>,
    datacenters: Mutex<BTreeMap<Ref, Option<String>>>,
    clusters: Mutex<Option<(Instant, BTreeMap<Ref, Cluster>)>>,
    listed: Mutex<Option<(Instant, Arc<Vec<Listed>>)>>,
    components: Mutex<BTreeMap<Ref, (Instant, Said)>>,
    packages_changed: Mutex<BTreeMap<Ref, Instant>>,
    /// Calls that take their time, on connections of their own.
    apart: Mutex<usize>,
    apart_freed: Condvar,
    /// Files that are written to datastores, and images that are changed.
    writing: Mutex<BTreeMap<String, Arc<Mutex<()>>>>,
    room: Mutex<BTreeMap<Ref, (Instant, Room)>>,
    counters: Mutex<Option<(Instant, Vec<Reading>)>>,
    images: Mutex<BTreeMap<Ref, Arc<Mutex<ReadImage>>>>,
    /// How many more vGPUs fit on hosts.
    remaining: Mutex<BTreeMap<Ref, (Instant, Remaining)>>,
}

/// How many more fit, by vGPU type.
type Remaining = BTreeMap<String, u64>;
/// What was read of an image last.
type ReadImage = Option<(Instant, Result<Arc<OfImage>, Fault>)>;

/// An image, with what is said of its hosts.
pub(super) struct OfImage {
    pub image: Option<Image>,
    /// By the ids of hosts.
    pub compliance: BTreeMap<String, Compliance>,
    /// Packages in no image, with the ids of their hosts.
    pub orphaned: BTreeMap<String, Vec<String>>,
    pub orchestrator: Option<String>,
}

#[derive(Default)]
struct Pool {
    idle: Vec<Session>,
    open: usize,
    handle: Option<Handle>,
    /// Somebody logs in.
    logs_in: bool,
    /// Grows with each refused login: sessions from before are not used again.
    generation: u64,
    /// A refused login, with the age of the password file it was tried with.
    refused: Option<(Option<SystemTime>, Fault)>,
    failed: Option<(Instant, Fault)>,
}

impl Pool {
    fn refuse(&mut self, password_of: Option<SystemTime>, fault: &Fault) {
        self.refused = Some((password_of, fault.clone()));
        self.handle = None;
        self.generation += 1;
        // Its session is over, whatever a logout would say.
        self.open -= self.idle.len();
        self.idle.clear();
    }
}

/// Where a file for hosts lies in the folder of those that were received: by its hash, whichever datastore it is for.
pub(super) fn spooled(path: &str) -> String {
    let of_datastore = path.strip_prefix("/vmfs/volumes/").and_then(|rest| rest.split_once('/'));
    of_datastore.map_or(path.into(), |(_, file)| format!("/{file}"))
}

/// What was read of hosts, and when that began and ended.
#[derive(Default)]
struct Read {
    hosts: BTreeMap<Ref, (Instant, Instant, Found)>,
    /// Since when something is another.
    not_before: BTreeMap<Ref, Instant>,
    wanted: BTreeSet<Ref>,
    busy: bool,
}

#[expect(clippy::disallowed_methods, reason = "how old an answer is")]
fn now() -> Instant {
    Instant::now()
}

fn locked<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Site {
    pub fn new(config: Config, kept: Vec<&'static str>, files: Option<Posix>) -> Self {
        Self {
            config,
            files,
            kept,
            pool: Mutex::default(),
            asked_with: AskedWith::default(),
            freed: Condvar::new(),
            read: Mutex::default(),
            done: Condvar::new(),
            managers: Mutex::default(),
            system_ids: Mutex::default(),
            datacenters: Mutex::default(),
            clusters: Mutex::default(),
            listed: Mutex::default(),
            components: Mutex::default(),
            packages_changed: Mutex::default(),
            apart: Mutex::default(),
            apart_freed: Condvar::new(),
            writing: Mutex::default(),
            room: Mutex::default(),
            counters: Mutex::default(),
            images: Mutex::default(),
            remaining: Mutex::default(),
        }
    }

    /// The hosts that the file names.
    pub fn hosts(&self) -> Result<Vec<Host>, Fault> {
        self.with(|session| named_hosts(&self.config, session))
    }

    /// Does something with a connection. One on which nothing was heard is closed.
    pub fn with<T>(&self, act: impl FnOnce(&mut Session) -> Result<T, Fault>) -> Result<T, Fault> {
        let (mut session, generation) = self.take()?;
        let done = act(&mut session);
        let mut pool = locked(&self.pool);
        let closed = match &done {
            Err(fault) if fault.kind == REFUSED => {
                pool.refuse(*locked(&self.asked_with), fault);
                Some(session)
            }
            // Of a session whose login was refused there is nothing to keep.
            _ if pool.generation != generation => Some(session),
            Err(fault) if fault.is_unheard() => Some(session),
            _ => {
                pool.idle.push(session);
                None
            }
        };
        if closed.is_some() {
            pool.open -= 1;
        }
        drop(pool);
        self.freed.notify_all();
        // It may log out: nobody waits for that.
        drop(closed);
        done
    }

    /// Does something that takes minutes, on a connection of its own in the same session: the others stay for whoever asks.
    /// `patience`: how long its turn is waited for.
    pub fn apart<T>(
        &self,
        patience: Duration,
        act: impl FnOnce(&mut Session) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        // Whoever logs in, and whose login was refused, is the pool's to say.
        let handle = self.with(|session| Ok(session.handle()))?;
        let begun = now();
        let mut busy = locked(&self.apart);
        while *busy >= APART {
            let left = (begun + patience).saturating_duration_since(now());
            if left.is_zero() {
                return Err(Fault::said(format!(
                    "other hosts were served for {} minutes (packages are sent to them, or vCenter is slow): ask again later",
                    patience.as_secs() / 60
                )));
            }
            busy = self.apart_freed.wait_timeout(busy, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        *busy += 1;
        drop(busy);
        let done = Session::beside(&handle).and_then(|mut session| act(&mut session));
        *locked(&self.apart) -= 1;
        self.apart_freed.notify_one();
        done
    }

    /// Whose turn it is to write a file, or to change an image. Those that nobody waits for are forgotten.
    pub fn writing(&self, what: &str) -> Arc<Mutex<()>> {
        let mut all = locked(&self.writing);
        all.retain(|_, turn| Arc::strong_count(turn) > 1);
        all.entry(what.into()).or_default().clone()
    }

    /// A connection: one that is there, one more, or the next that is free.
    fn take(&self) -> Result<(Session, u64), Fault> {
        let until = now() + PATIENCE;
        let mut pool = locked(&self.pool);
        let handle = loop {
            // Each try of a refused login counts towards the account's lock.
            if let Some((of, fault)) = &pool.refused {
                // A file that cannot be seen is no new one.
                let now = changed(&self.config.password_file);
                if now.is_none() || now == *of {
                    return Err(fault.clone());
                }
            }
            if let Some(session) = pool.idle.pop() {
                return Ok((session, pool.generation));
            }
            // One that answers a login with a fault has taken the login.
            let pause = |fault: &Fault| if fault.is_unheard() { AGAIN } else { LATER };
            if let Some((_, fault)) = pool.failed.as_ref().filter(|(at, f)| now() - *at < pause(f)) {
                return Err(fault.clone());
            }
            // The first connection logs in while the others wait for it: one session for all.
            if pool.open < CONNECTIONS && !pool.logs_in {
                pool.open += 1;
                pool.logs_in = pool.handle.is_none();
                break pool.handle.clone();
            }
            let left = until.saturating_duration_since(now());
            if left.is_zero() {
                return Err(Fault::said(format!(
                    "{}: all connections were busy for two minutes; if that stays, look at the load of vCenter",
                    self.config.address
                )));
            }
            pool = self.freed.wait_timeout(pool, left).unwrap_or_else(PoisonError::into_inner).0;
        };
        let generation = pool.generation;
        drop(pool);
        let made = match &handle {
            Some(handle) => Session::beside(handle),
            None => begin(&self.config, &self.asked_with),
        };
        let mut pool = locked(&self.pool);
        pool.logs_in = false;
        match &made {
            // Its login was refused to somebody else meanwhile.
            Ok(_) if pool.generation != generation => {
                pool.open -= 1;
                let refused = pool.refused.as_ref().map(|(_, fault)| fault.clone());
                drop(pool);
                self.freed.notify_all();
                return Err(refused.unwrap_or_else(|| Fault::said("the login was refused meanwhile")));
            }
            Ok(session) => {
                pool.refused = None;
                pool.handle.get_or_insert_with(|| session.handle());
                pool.failed = None;
            }
            Err(fault) => {
                pool.open -= 1;
                match fault.kind == REFUSED {
                    true => pool.refuse(*locked(&self.asked_with), fault),
                    false => pool.failed = Some((now(), fault.clone())),
                }
            }
        }
        drop(pool);
        self.freed.notify_all();
        made.map(|session| (session, generation))
    }

    /// What the server says of a host, as it was read within two seconds: where a reading takes longer than that, it counts
    /// from its end, or many hosts would be read again and again. Whoever asks while others are read waits, and is read
    /// with all who came meanwhile.
    pub fn details(&self, host: &Ref) -> Result<Arc<HostDetails>, Fault> {
        let asked = now();
        let mut read = locked(&self.read);
        loop {
            let least = read.not_before.get(host).copied();
            let fresh = |begun: Instant, ended: Instant| {
                ended + FRESH >= asked && least.is_none_or(|least| begun >= least)
            };
            let known = read.hosts.get(host).filter(|(begun, ended, _)| fresh(*begun, *ended));
            if let Some((_, _, found)) = known {
                return found.clone();
            }
            read.wanted.insert(host.clone());
            if read.busy {
                if now() - asked > LONGEST {
                    return Err(Fault::said(
                        "it still answers for other hosts after five minutes; look at the load of vCenter",
                    ));
                }
                read = self.done.wait_timeout(read, LONGEST).unwrap_or_else(PoisonError::into_inner).0;
                continue;
            }
            read.busy = true;
            let wanted: Vec<Ref> = std::mem::take(&mut read.wanted).into_iter().collect();
            drop(read);
            let begun = now();
            let found = self.read_now(&wanted);
            let ended = now();
            read = locked(&self.read);
            read.busy = false;
            for one in wanted {
                let gone = || Err(Fault::said("vCenter does not list this host any more"));
                let of = found.get(&one).cloned().unwrap_or_else(gone);
                read.hosts.insert(one, (begun, ended, of));
            }
            self.done.notify_all();
        }
    }

    /// Something of a host was changed: what was read before does not count any more.
    pub fn changed(&self, host: &Ref) {
        locked(&self.read).not_before.insert(host.clone(), now());
    }

    /// Reads hosts; where one of them cannot be read, the others all the same.
    fn read_now(&self, wanted: &[Ref]) -> BTreeMap<Ref, Result<Arc<HostDetails>, Fault>> {
        let kept = |key: &str| self.kept.iter().any(|prefix| key.starts_with(prefix));
        let mut found = BTreeMap::new();
        let mut parts = vec![wanted];
        while let Some(part) = parts.pop() {
            match self.with(|session| details(session, part, &kept)) {
                Ok(hosts) => {
                    found.extend(hosts.into_iter().map(|host| (host.of.clone(), Ok(Arc::new(host)))));
                }
                // One host's fault is not the others'.
                Err(fault) if fault.may_be_of_one() && part.len() > 1 => {
                    let (first, second) = part.split_at(part.len() / 2);
                    parts.extend([second, first]);
                }
                Err(fault) if fault.kind == "ManagedObjectNotFound" => {}
                Err(fault) => found.extend(part.iter().map(|one| (one.clone(), Err(fault.clone())))),
            }
        }
        found
    }

    /// The managers of a host, whose ids do not change while it is in the inventory.
    pub fn managers(&self, session: &mut Session, host: &Ref) -> Result<Managers, Fault> {
        if let Some(known) = locked(&self.managers).get(host) {
            return Ok(known.clone());
        }
        let found = managers(session, host)?;
        // What is missing may be a privilege that comes.
        if found.are_complete() {
            locked(&self.managers).insert(host.clone(), found.clone());
        }
        Ok(found)
    }

    /// The id by which devices of VMs name a host; it does not change.
    pub fn system_id(&self, host: &Host) -> Result<String, Fault> {
        if let Some(known) = locked(&self.system_ids).get(&host.of) {
            return Ok(known.clone());
        }
        let compute = self.details(&host.of)?.parent.clone().or_else(|| host.compute.clone());
        let compute = compute.ok_or_else(|| Fault::said("the account does not see the host's cluster"))?;
        let found = self.with(|session| system_id(session, &compute, &host.of))?;
        let found = found.ok_or_else(|| {
            Fault::said("vCenter says the host's id only where a device of it can be passed through")
        })?;
        locked(&self.system_ids).insert(host.of.clone(), found.clone());
        Ok(found)
    }

    /// The last bytes of a file on a datastore that a host sees.
    pub fn tail(&self, host: &Host, datastore: &str, path: &str, most: usize) -> Result<Vec<u8>, Fault> {
        // As it is now: hosts are moved.
        let place = self.details(&host.of)?.parent.clone().or_else(|| host.compute.clone());
        let place = &place.unwrap_or_else(|| host.of.clone());
        let known = locked(&self.datacenters).get(place).cloned();
        let was_known = known.is_some();
        let look = |known: Option<Option<String>>| {
            self.with(|session| {
                let of = match known {
                    Some(known) => known,
                    None => datacenter(session, place)?,
                };
                let found = tail(session, (of.as_deref(), datastore, path), most);
                Ok((of, found?))
            })
        };
        let found = match look(known) {
            // The datacenter may have another name since.
            Err(fault) if fault.kind == "FileNotFound" && was_known => look(None),
            other => other,
        };
        let (of, bytes) = found?;
        locked(&self.datacenters).insert(place.clone(), of);
        Ok(bytes)
    }

    /// All VMs and templates by name, not older than the counters: many new VMs are planned at once.
    pub fn listed(&self) -> Result<Arc<Vec<Listed>>, Fault> {
        let mut known = locked(&self.listed);
        if let Some((_, all)) = known.as_ref().filter(|(at, _)| now() - *at < LIST_FRESH) {
            return Ok(all.clone());
        }
        let at = now();
        let all = Arc::new(self.with(clone::list)?);
        *known = Some((at, all.clone()));
        Ok(all)
    }

    /// Memory that the hosts of a cluster can still promise, not older than a minute: it explains what DRS says, and
    /// decides nothing where DRS can be asked.
    pub fn unreserved(&self, cluster: &Ref) -> Result<Room, Fault> {
        let mut known = locked(&self.room);
        known.retain(|_, (at, _)| now() - *at < CLUSTERS_FRESH);
        if let Some((_, room)) = known.get(cluster) {
            return Ok(room.clone());
        }
        let at = now();
        let room = Arc::new(self.with(|session| unreserved(session, cluster))?);
        known.insert(cluster.clone(), (at, room.clone()));
        Ok(room)
    }

    /// What a host's esxcli said, not older than ten minutes: it takes seconds to begin, and what it says changes by us.
    pub fn esxcli_once(&self, host: &Ref, ask: impl FnOnce() -> Said) -> Said {
        // A refusal may be over when the next one asks: a role is changed, a host comes back.
        let fresh = |(at, said): &&(Instant, Said)| {
            now() - *at < if said.is_ok() { ESXCLI_FRESH } else { REFUSED_FRESH }
        };
        if let Some((_, said)) = locked(&self.components).get(host).filter(fresh) {
            return said.clone();
        }
        let at = now();
        let said = ask();
        // What was seen before a change is not kept behind it.
        let mut known = locked(&self.components);
        let changed = locked(&self.packages_changed).get(host).is_some_and(|changed| *changed > at);
        if !changed {
            known.insert(host.clone(), (at, said.clone()));
        }
        said
    }

    /// Packages of a host were changed.
    pub fn packages_changed(&self, host: &Ref) {
        locked(&self.components).remove(host);
        locked(&self.packages_changed).insert(host.clone(), now());
    }

    /// Something of a cluster was changed.
    pub fn clusters_changed(&self) {
        *locked(&self.clusters) = None;
    }

    /// A VM was made: who looks at the list sees its name, without asking for all of it again.
    pub fn made_a_vm(&self, name: &str, host: &Ref) {
        if let Some((_, all)) = locked(&self.listed).as_mut() {
            let of = Ref { kind: "VirtualMachine".into(), id: String::new() };
            let made = Listed { of, name: name.into(), is_template: false, host: Some(host.clone()) };
            Arc::make_mut(all).push(made);
        }
    }

    /// Which VMs there are is not known any more.
    pub fn vms_changed(&self) {
        *locked(&self.listed) = None;
    }

    /// A cluster, not older than a minute.
    pub fn cluster(&self, of: &Ref) -> Result<Option<Cluster>, Fault> {
        let mut known = locked(&self.clusters);
        let fresh = known.as_ref().filter(|(at, all)| now() - *at < CLUSTERS_FRESH && all.contains_key(of));
        if let Some((_, all)) = fresh {
            return Ok(all.get(of).cloned());
        }
        // All that were asked about before, and this one.
        let mut all: BTreeSet<Ref> =
            known.as_ref().map(|(_, all)| all.keys().cloned().collect()).unwrap_or_default();
        all.insert(of.clone());
        let all: Vec<Ref> = all.into_iter().collect();
        let at = now();
        let found = self.with(|session| match clusters(session, &all) {
            // One of the others is gone.
            Err(fault) if fault.kind == "ManagedObjectNotFound" => {
                clusters(session, std::slice::from_ref(of))
            }
            other => other,
        })?;
        let found: BTreeMap<Ref, Cluster> =
            found.into_iter().map(|cluster| (cluster.of.clone(), cluster)).collect();
        let one = found.get(of).cloned();
        *known = Some((at, found));
        Ok(one)
    }

    /// The image of a cluster or a host, not older than a minute. Whoever asks meanwhile waits for it.
    pub fn image(&self, of: &Ref) -> Result<Arc<OfImage>, Fault> {
        // Others do not wait for this one.
        let known = locked(&self.images).entry(of.clone()).or_default().clone();
        let mut known = locked(&known);
        // Also why it was not read: each who asks would wait for that.
        if let Some((_, image)) = known.as_ref().filter(|(at, _)| now() - *at < CLUSTERS_FRESH) {
            return image.clone();
        }
        let at = now();
        let image = self.with(|session| {
            Ok(Arc::new(OfImage {
                image: images::image(session, of)?,
                compliance: images::compliance(session, of)?,
                orphaned: images::orphaned(session, of)?,
                orchestrator: images::orchestrator(session, of)?,
            }))
        });
        *known = Some((at, image.clone()));
        image
    }

    /// How many more of each vGPU type fit on a host, as old as counters are. Like these it is no part of what a plan rests on:
    /// where it may not be counted, or is not, there is nothing.
    pub fn remaining(&self, host: &Ref, vgpus: &[&String]) -> Remaining {
        if let Some((_, found)) =
            locked(&self.remaining).get(host).filter(|(at, _)| now() - *at < COUNTERS_FRESH)
        {
            return found.clone();
        }
        let at = now();
        let found = self.with(|session| remaining(session, host, vgpus));
        let found = found.ok().flatten().unwrap_or_default();
        locked(&self.remaining).insert(host.clone(), (at, found.clone()));
        found
    }

    /// An image was changed, or a host by it.
    pub fn image_changed(&self, of: &Ref) {
        locked(&self.images).remove(of);
    }

    /// GPU counters of a host, of all hosts read at once. They are no part of what a plan rests on: where they
    /// cannot be read, there are none.
    pub fn counters(&self, host: &Host) -> Vec<Reading> {
        // Others wait for the one that reads, and share what it found, be it nothing.
        let mut known = locked(&self.counters);
        if known.as_ref().is_none_or(|(at, _)| now() - *at >= COUNTERS_FRESH) {
            let at = now();
            let read = self.with(|session| {
                let counters = counters::known(session)?;
                if counters.is_empty() {
                    return Ok(vec![]);
                }
                // As they are now: one that is gone refuses the whole question.
                let mut hosts = named_hosts(&self.config, session)?;
                hosts.retain(|host| host.state == "connected");
                counters::read(session, &counters, &hosts.iter().collect::<Vec<_>>())
            });
            *known = Some((at, read.unwrap_or_default()));
        }
        let of_host = |(_, all): &(Instant, Vec<Reading>)| {
            all.iter().filter(|reading| reading.host == host.name).cloned().collect()
        };
        known.as_ref().map(of_host).unwrap_or_default()
    }
}
