//! What happens to the machines, and what must hold all the same. A broken promise is an `Err` that names it.

use crate::Rng;
use crate::disk::Span;
use crate::faults::{Hand, Troubles};
use crate::world::{Act, Controller, LEASE, Power, TICK, World, fleet};
use std::collections::BTreeSet;
use std::time::Duration;
use vsgpu::hold::Hold;

/// What a seed is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// The controller loses its power again and again.
    Crashes,
    /// The network drops, delays, doubles and cuts in one direction; agents crash.
    Network,
    /// A controller is paused past its lease, another one takes over, and the first wakes up.
    Overtaken,
    /// Two controllers at once.
    Together,
    /// Somebody brings a host out of maintenance mode in the middle.
    Drift,
    /// Somebody else puts a host into maintenance mode, or stops a VM, that the run was about to.
    Another,
    /// A change fails on every host, and requests come twice.
    Failing,
    /// The journal's disk is full for a while.
    DiskFull,
}

impl Scenario {
    pub const ALL: [Self; 8] = [
        Self::Crashes,
        Self::Network,
        Self::Overtaken,
        Self::Together,
        Self::Drift,
        Self::Another,
        Self::Failing,
        Self::DiskFull,
    ];

    /// The scenario of a seed: the two long ones more often.
    pub fn of(seed: u64) -> Self {
        [
            Self::Crashes,
            Self::Network,
            Self::Overtaken,
            Self::Together,
            Self::Drift,
            Self::Another,
            Self::Failing,
            Self::DiskFull,
            Self::Crashes,
            Self::Network,
        ][(seed % 10) as usize]
    }
}

/// Simulated time after which a controller that is not done has lost its place.
const LIMIT: Duration = Duration::from_secs(4 * 3600);

/// Runs one seed. The same seed gives the same digest.
///
/// # Errors
/// The promise that was broken, with what the controllers heard.
pub fn run(scenario: Scenario, seed: u64) -> Result<u64, String> {
    let mut rng = Rng::new(seed);
    vsgpu_core::failpoint::duplicate(
        seed,
        if matches!(scenario, Scenario::Network | Scenario::Failing) { 3 } else { 0 },
    );
    let mut play = Play::new(scenario, seed, &mut rng);
    let result = play.run(&mut rng);
    vsgpu_core::failpoint::duplicate(0, 0);
    let heard =
        || play.controllers.iter().map(|c| format!("--- {}\n{}\n", c.name, c.heard())).collect::<String>();
    let acts = || {
        play.world
            .acts()
            .iter()
            .map(|a| format!("{:?} {} {} changed={}\n", a.at, a.host, a.call, a.changed))
            .collect::<String>()
    };
    result
        .map(|()| play.digest())
        .map_err(|why| format!("{scenario:?}, seed {seed}: {why}\n{}--- acts\n{}", heard(), acts()))
}

pub(crate) struct Play {
    scenario: Scenario,
    pub(crate) world: World,
    pub(crate) controllers: Vec<Controller>,
    most_away: usize,
    seed: u64,
}

impl Play {
    fn new(scenario: Scenario, seed: u64, rng: &mut Rng) -> Self {
        let hosts = match scenario {
            Scenario::Crashes | Scenario::Network => 2 + rng.below(2) as usize,
            Scenario::Failing => 3,
            Scenario::Overtaken | Scenario::Together | Scenario::Another | Scenario::DiskFull => 2,
            Scenario::Drift => 1,
        };
        let most_away = 1 + rng.below(hosts as u64 - u64::from(hosts > 1)).min(1) as usize;
        // The breaker is what is tried there: the budget alone would let all of them go.
        let most_away = if scenario == Scenario::Failing { hosts } else { most_away };
        // Where the network fails hosts, one that failed must not stop the others: what is tried is the way
        // back.
        let stop = if scenario == Scenario::Failing { 1 } else { 9 };
        let canary =
            if scenario == Scenario::Failing || rng.one_in(2) && hosts > 1 { "canary: 1, " } else { "" };
        let rollout = format!("{{ {canary}max-unavailable: {most_away}, stop-at-failed: {stop} }}");
        let world = World::new(seed, hosts);
        let mut controllers =
            vec![Controller::new(&world, "controller", fleet(hosts, "Consolidation", &rollout))];
        if matches!(scenario, Scenario::Overtaken | Scenario::Together) {
            controllers.push(Controller::new(&world, "other", fleet(hosts, "Performance", &rollout)));
        }
        if scenario == Scenario::Together {
            // The other one has nothing to change as it is: only what the first one sets.
            world.hosts.iter().for_each(|h| world.machine(h, |m| m.esxi().policy = "Performance".into()));
        }
        if scenario == Scenario::Failing {
            let fault = vsgpu_tests::fakes::state::Fault::Fail { text: "Error: not today\n".into() };
            for host in &world.hosts {
                world.machine(host, |m| {
                    drop(m.faults.insert("esxcli hardware pci pcipassthru set".into(), fault.clone()))
                });
            }
        }
        Self { scenario, world, controllers, most_away, seed }
    }

    fn run(&mut self, rng: &mut Rng) -> Result<(), String> {
        let slow = if self.scenario == Scenario::Network { 40_000 } else { 20_000 };
        let mut sim = turmoil::Builder::new()
            .rng_seed(self.seed)
            .tick_duration(TICK)
            .simulation_duration(LIMIT * 2)
            .min_message_latency(Duration::from_millis(1))
            .max_message_latency(Duration::from_millis(if self.scenario == Scenario::Network {
                400
            } else {
                20
            }))
            .tcp_capacity(4096)
            .build();
        for host in self.world.hosts.clone() {
            self.world.agent(&mut sim, &host, slow);
        }
        match self.scenario {
            Scenario::Overtaken => {
                (self.controllers[0].calls, self.controllers[1].starts) = (1, LIMIT);
            }
            Scenario::Together => self.controllers[1].starts = Duration::from_millis(500 + rng.below(20_000)),
            Scenario::Failing | Scenario::Drift | Scenario::Another => self.controllers[0].calls = 1,
            Scenario::DiskFull => self.controllers[0].disk.fail(
                rng.below(14) as usize,
                1 + rng.below(3) as usize,
                rng.one_in(2),
            ),
            Scenario::Crashes | Scenario::Network => {}
        }
        if self.scenario == Scenario::Overtaken {
            return self.overtaken(sim, rng);
        }
        self.controllers.iter().for_each(|c| c.start(&mut sim));
        let mut troubles = Troubles::new(self.scenario, rng);
        let mut power = Power::default();
        let mut settling = None;
        while settling.is_none_or(|until| sim.elapsed() < until) {
            sim.step().map_err(|e| format!("the simulation failed: {e}"))?;
            self.world.power(&mut sim, rng, &mut power);
            self.budget(&power)?;
            troubles.step(&mut sim, rng, self, &power.down);
            if settling.is_none() && self.controllers.iter().all(Controller::done) {
                // What was still on its way arrives.
                settling = Some(sim.elapsed() + Duration::from_secs(5));
            }
            if sim.elapsed() > LIMIT {
                return Err(format!("nothing is settled after {LIMIT:?}"));
            }
        }
        self.judge(&troubles)
    }

    /// I4: never more away than the budget allows.
    fn budget(&self, power: &Power) -> Result<(), String> {
        // A network that cuts a host off in the middle leaves it in maintenance mode; the next run begins
        // with it.
        let away = self.world.away(power);
        if away.len() > self.most_away {
            Err(format!("I4: {} are away, {} may be", away.join(", "), self.most_away))
        } else {
            Ok(())
        }
    }

    fn judge(&self, troubles: &Troubles) -> Result<(), String> {
        if let Some(why) = self.controllers.iter().find_map(|c| c.broken.lock().unwrap().first().cloned()) {
            return Err(why);
        }
        self.nothing_twice()?;
        self.intent_first()?;
        let first = &self.controllers[0];
        let reports = first.reports();
        match self.scenario {
            Scenario::Crashes => {
                as_wished(&self.world, "Consolidation")?;
                reboots(&self.world, 1)?;
                // One run, whatever happened to the controller: the journal never lost its place.
                if first.disk.files().len() != 1 {
                    return Err(format!("{} runs were made where one was enough", first.disk.files().len()));
                }
                self.no_failures(&reports)
            }
            Scenario::DiskFull => {
                as_wished(&self.world, "Consolidation")?;
                reboots(&self.world, 1)?;
                Ok(())
            }
            Scenario::Network => {
                for report in reports.iter().flatten() {
                    let complete = report.steps > 0 && report.summary.done == report.steps;
                    if complete && report.problems.is_empty() && !troubles.as_wished_when_complete {
                        return Err("I9: a run was done, and the hosts were not as wished".into());
                    }
                }
                as_wished(&self.world, "Consolidation")?;
                reboots(&self.world, 1)
            }
            Scenario::Together => {
                let policies = self.policies();
                // Who came last has its way, on all hosts: the two never mixed.
                if policies.len() != 1 {
                    return Err(format!("I3: the controllers mixed: {policies:?}"));
                }
                for report in self.controllers.iter().flat_map(Controller::reports).flatten() {
                    if let Some((_, error)) =
                        report.summary.failed.iter().find(|(_, e)| e.message.contains("was taken over"))
                    {
                        return Err(format!("I3: a live controller lost a node: {error}"));
                    }
                }
                reboots(&self.world, 1)
            }
            Scenario::Drift => self.drift(&reports, troubles),
            Scenario::Another => self.anothers(&reports, troubles),
            Scenario::Failing => self.failing(),
            Scenario::Overtaken => Ok(()),
        }
    }

    fn overtaken(&mut self, mut sim: turmoil::Sim<'_>, rng: &mut Rng) -> Result<(), String> {
        let hosts = self.world.hosts.clone();
        let names: Vec<&str> = hosts.iter().map(String::as_str).collect();
        let (first, other) = (self.controllers[0].clone(), self.controllers[1].clone());
        first.start(&mut sim);
        let pause_at = Duration::from_millis(300 + rng.below(12_000));
        let (mut power, mut held, mut woken, mut started) = (Power::default(), false, None, false);
        let mut other = Controller { starts: Duration::ZERO, calls: 6, ..other };
        while sim.elapsed() < LIMIT {
            sim.step().map_err(|e| format!("the simulation failed: {e}"))?;
            self.world.power(&mut sim, rng, &mut power);
            if !held && sim.elapsed() >= pause_at {
                // Paused: nothing of it arrives, nothing reaches it; what it had sent is on its way all the
                // same.
                names.iter().for_each(|host| sim.hold("controller", *host));
                held = true;
            }
            if !started && sim.elapsed() >= pause_at + LEASE * 3 {
                other.start(&mut sim);
                self.controllers[1] = other.clone();
                started = true;
            }
            if started && woken.is_none() && other.done() {
                names.iter().for_each(|host| sim.release("controller", *host));
                woken = Some(sim.elapsed());
            }
            if let Some(woken) = woken
                && sim.elapsed() > woken + Duration::from_secs(120)
            {
                other.calls = 0;
                let late = |a: &&Act| a.at > woken;
                return match self.world.acts().iter().find(late) {
                    Some(act) => Err(format!(
                        "I3: an overtaken controller changed something when it woke up: {}: {}",
                        act.host, act.call
                    )),
                    None => self.nothing_twice(),
                };
            }
        }
        Err("nothing is settled".into())
    }

    /// I1: what changed a host lies between the record that a step of that host was begun and the one of its
    /// end.
    fn intent_first(&self) -> Result<(), String> {
        let mut spans = vec![];
        for controller in &self.controllers {
            spans.extend(controller.disk.steps()?);
        }
        let covers = |act: &Act, span: &Span| {
            span.host == act.host && span.begun <= act.at.as_secs() && act.at.as_secs() <= span.ended
        };
        match self.world.acts().iter().find(|act| act.changed && !spans.iter().any(|span| covers(act, span)))
        {
            Some(act) => {
                Err(format!("I1: changed without a record: {} at {:?}: {}", act.host, act.at, act.call))
            }
            None => Ok(()),
        }
    }

    /// I2: no command that had nothing to change.
    fn nothing_twice(&self) -> Result<(), String> {
        match self.world.acts().iter().find(|a| a.ok && !a.changed) {
            Some(act) => Err(format!("I2: done twice: {} at {:?}: {}", act.host, act.at, act.call)),
            None => Ok(()),
        }
    }

    fn policies(&self) -> BTreeSet<String> {
        self.world.hosts.iter().map(|host| self.world.machine(host, |m| m.esxi().policy.clone())).collect()
    }

    fn no_failures(
        &self,
        reports: &[Result<crate::world::Report, Vec<vsgpu::error::Error>>],
    ) -> Result<(), String> {
        for report in reports {
            match report {
                Ok(report) if report.summary.failed.is_empty() && report.problems.is_empty() => {}
                Ok(report) => {
                    return Err(format!(
                        "a step failed that had no reason to: {:?}{:?}",
                        report.summary.failed, report.problems
                    ));
                }
                Err(errors) => return Err(format!("the run broke: {errors:?}")),
            }
        }
        Ok(())
    }

    /// Nothing but restoring happens on a host behind somebody's back.
    fn drift(
        &self,
        reports: &[Result<crate::world::Report, Vec<vsgpu::error::Error>>],
        troubles: &Troubles,
    ) -> Result<(), String> {
        let Some(at) = troubles.drifted_at else { return Ok(()) };
        let restores = |call: &str| call.contains("--enable false") || call.contains("power.on");
        if let Some(act) = self.world.acts().iter().find(|a| a.at > at && !restores(&a.call)) {
            return Err(format!("changed behind somebody's back: {}: {}", act.host, act.call));
        }
        let held =
            |r: &crate::world::Report| r.summary.failed.iter().any(|(_, e)| e.hold == Some(Hold::Drift));
        match reports.iter().flatten().any(held) {
            true => Ok(()),
            false => Err("the drift was not said".into()),
        }
    }

    /// What somebody else changed stays theirs, and it is said.
    fn anothers(
        &self,
        reports: &[Result<crate::world::Report, Vec<vsgpu::error::Error>>],
        troubles: &Troubles,
    ) -> Result<(), String> {
        let Some((_, hand)) = troubles.hand else { return Ok(()) };
        let theirs = |m: &mut vsgpu_tests::fakes::state::Machine| match hand {
            Hand::Maintenance => m.esxi().maintenance,
            Hand::VmOff => !m.esxi().vms[0].on,
        };
        if !self.world.machine(&self.world.hosts[0], theirs) {
            return Err(format!("what somebody else changed ({hand:?}) was undone"));
        }
        let said = |r: &crate::world::Report| match hand {
            Hand::Maintenance => r.summary.failed.iter().any(|(_, e)| e.hold == Some(Hold::Stale)),
            // The rest of the host's work is done all the same.
            Hand::VmOff => r.summary.failed.is_empty() && !r.summary.untouched.is_empty(),
        };
        if hand == Hand::VmOff {
            wished(&self.world, &self.world.hosts[1..], "Consolidation")?;
        }
        match reports.iter().flatten().any(said) {
            true => Ok(()),
            false => Err(format!("that somebody else had been there ({hand:?}) was not said")),
        }
    }

    /// The breaker: only as many hosts are begun as may fail; and what was changed temporarily is restored.
    fn failing(&self) -> Result<(), String> {
        let acts = self.world.acts();
        let touched: BTreeSet<&str> =
            acts.iter().filter(|a| a.call.contains("maintenanceMode")).map(|a| a.host.as_str()).collect();
        if touched.len() > 1 {
            return Err(format!("the rollout went on after a failure: {touched:?}"));
        }
        for host in &self.world.hosts {
            let tries = acts.iter().filter(|a| a.host == *host && a.call.contains("pcipassthru set")).count();
            if tries > 1 {
                return Err(format!("I2: asked once, {host} tried {tries} times"));
            }
            let (maintenance, on) = self.world.machine(host, |m| (m.esxi().maintenance, m.esxi().vms[0].on));
            if maintenance || !on {
                return Err(format!("I6: {host} was left in maintenance mode, or its VM off"));
            }
        }
        Ok(())
    }

    fn digest(&self) -> u64 {
        use std::hash::{DefaultHasher, Hash as _, Hasher as _};
        let mut hasher = DefaultHasher::new();
        for act in self.world.acts() {
            (act.at, &act.host, &act.call, act.changed).hash(&mut hasher);
        }
        hasher.finish()
    }
}

/// I6: every host is as wished, out of maintenance mode, its VM on.
pub(crate) fn as_wished(world: &World, policy: &str) -> Result<(), String> {
    wished(world, &world.hosts, policy)
}

fn wished(world: &World, hosts: &[String], policy: &str) -> Result<(), String> {
    for host in hosts {
        let wrong = world.machine(host, |m| {
            let esxi = m.esxi();
            let wrong = [
                (esxi.maintenance, "it is in maintenance mode"),
                (!esxi.vms[0].on, "its VM is off"),
                (esxi.policy != policy, "its policy is another one"),
                (esxi.acceptance != "VMwareAccepted", "its acceptance level is another one"),
                (!esxi.gpus[1].given, "its GPU is not given away"),
            ];
            wrong.into_iter().find(|(so, _)| *so).map(|(_, what)| what)
        });
        if let Some(what) = wrong {
            return Err(format!("I6: {host}: {what}"));
        }
    }
    Ok(())
}

/// I5: exactly as many reboots of each host as were planned.
pub(crate) fn reboots(world: &World, planned: usize) -> Result<(), String> {
    for host in &world.hosts {
        let reboots = world
            .acts()
            .iter()
            .filter(|a| a.ok && a.host == *host && a.call.contains("shutdown reboot"))
            .count();
        if reboots != planned {
            return Err(format!("I5: {host} was rebooted {reboots} times"));
        }
    }
    Ok(())
}
