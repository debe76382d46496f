//! Not by chance but by count: the controller's power cut behind each record and each pair of records, an
//! agent killed behind each command, each command failing, of a whole plan. Every time all is as wished in
//! the end, with the reboots that were planned and no others.

use crate::Rng;
use crate::lab_fleets::Example;
use crate::scenario::as_wished;
use crate::world::{Controller, Power, TICK, World, fleet};
use std::collections::BTreeMap;
use std::time::Duration;
use vsgpu::fleet::Fleet;
use vsgpu_tests::fakes::state::Fault;

/// Simulated time in which every plan is executed, whatever is cut.
const LIMIT: Duration = Duration::from_secs(6 * 3600);

#[derive(Clone, Debug, Default)]
pub struct Cuts {
    /// The controller loses its power when so many commits are on its disk.
    pub records: Vec<usize>,
    /// The agent whose command it was is killed when so many commands have changed something.
    pub commands: Vec<usize>,
    /// This command fails on this machine until the controller has reported once.
    pub fails: Option<(String, String)>,
}

/// A plan that is cut.
pub struct Subject<'a> {
    example: Option<&'a Example>,
    fleet: Fleet,
    /// Commits of a run without trouble.
    pub records: usize,
    /// Its commands that may change something: machine, command.
    pub commands: Vec<(String, String)>,
    boots: BTreeMap<String, u64>,
    idle: BTreeMap<(String, String), usize>,
}

impl Subject<'static> {
    /// One host that gives a GPU away.
    pub fn one_host() -> Result<Self, String> {
        Self::new(None, fleet(1, "Consolidation", "{}"))
    }
}

impl<'a> Subject<'a> {
    /// A fleet of the lab.
    pub fn of(example: &'a Example) -> Result<Self, String> {
        Self::new(Some(example), example.fleet.clone())
    }

    fn new(example: Option<&'a Example>, fleet: Fleet) -> Result<Self, String> {
        let mut this = Self {
            example,
            fleet,
            records: 0,
            commands: vec![],
            boots: BTreeMap::new(),
            idle: BTreeMap::new(),
        };
        let world = this.world();
        let controller = this.play(&world, &Cuts::default())?;
        this.records = controller.disk.writes();
        this.commands = world.acts().into_iter().map(|a| (a.host, a.call)).collect();
        (this.boots, this.idle) = (boots(&world), idle(&world));
        Ok(this)
    }

    fn world(&self) -> World {
        self.example.map_or_else(|| World::new(1, 1), Example::world)
    }

    /// One run with this trouble.
    ///
    /// # Errors
    /// What was not as it has to be.
    pub fn run(&self, cuts: &Cuts) -> Result<(), String> {
        let world = self.world();
        self.judge(&world, cuts).map_err(|why| {
            let acts = world
                .acts()
                .into_iter()
                .map(|a| format!("{:?} {} {} ok={} changed={}\n", a.at, a.host, a.call, a.ok, a.changed));
            format!("{cuts:?}: {why}\n{}", acts.collect::<String>())
        })
    }

    fn judge(&self, world: &World, cuts: &Cuts) -> Result<(), String> {
        // It ends only when a look at everything finds nothing to do.
        let controller = self.play(world, cuts)?;
        controller.broken.lock().unwrap().first().cloned().map_or(Ok(()), Err)?;
        if self.example.is_none() {
            as_wished(world, "Consolidation")?;
        }
        let reboots =
            |boots: &BTreeMap<String, u64>| world.hosts.iter().map(|h| boots[h]).collect::<Vec<_>>();
        let (planned, found) = (reboots(&self.boots), reboots(&boots(world)));
        if planned != found {
            return Err(format!("I5: boots of {:?}: {found:?}, planned {planned:?}", world.hosts));
        }
        // A command that had nothing to change, more often than without trouble. (In a guest: of those that
        // install something.) To restart a daemon again is no second effect.
        let restarts = |call: &str| {
            ["xorg ", "nv-hostengine ", "nvdGpuMgmtDaemon ", "esxcli graphics host refresh"]
                .iter()
                .any(|p| call.starts_with(p))
        };
        let installs = |call: &str| call.contains(".run") || call.contains("-installer");
        let once = |host: &String, call: &str| {
            if world.hosts.contains(host) { !restarts(call) } else { installs(call) }
        };
        let idle = idle(world);
        if let Some(((host, call), times)) =
            idle.iter().find(|(of, n)| once(&of.0, &of.1) && self.idle.get(*of).unwrap_or(&0) < n)
        {
            return Err(format!("I2: done {times} times for nothing: {host}: {call}"));
        }
        if cuts.fails.is_none() && controller.disk.files().len() != 1 {
            let last = vsgpu::journal::latest(&controller.disk).ok().flatten();
            let reports = controller.reports();
            let failed: Vec<_> = reports.iter().flatten().flat_map(|r| &r.summary.failed).collect();
            let steps =
                last.iter().flat_map(|run| &run.status.plan.steps).map(|s| format!("{} {}", s.node, s.title));
            return Err(format!(
                "{} runs were made where one was enough; the last: {:#?}, it had failed: {:?}",
                controller.disk.files().len(),
                steps.collect::<Vec<_>>(),
                failed
            ));
        }
        Ok(())
    }

    fn play(&self, world: &World, cuts: &Cuts) -> Result<Controller, String> {
        let mut rng = Rng::new(7);
        let mut sim = turmoil::Builder::new()
            .rng_seed(7)
            .tick_duration(TICK)
            .simulation_duration(LIMIT * 2)
            .tcp_capacity(4096)
            .build();
        world.machines().for_each(|name| world.agent(&mut sim, name, 1000));
        let controller = Controller::new(world, "controller", self.fleet.clone());
        controller.start(&mut sim);
        if let Some((machine, call)) = &cuts.fails {
            let fault = Fault::Fail { text: "Error: not today\n".into() };
            world.machine(machine, |m| drop(m.faults.insert(call.trim().into(), fault)));
        }
        let (mut records, mut commands) = (cuts.records.clone(), cuts.commands.clone());
        let (mut power, mut back) = (Power::default(), vec![]);
        while !controller.done() {
            sim.step().map_err(|e| e.to_string())?;
            world.power(&mut sim, &mut rng, &mut power);
            let now = sim.elapsed();
            if now > LIMIT {
                return Err(format!("nothing is settled after {LIMIT:?}: {}", controller.heard()));
            }
            if records.first().is_some_and(|n| controller.disk.writes() >= *n)
                && sim.is_host_running("controller")
            {
                records.remove(0);
                sim.crash("controller");
                controller.disk.power_cut(&mut rng);
                back.push((now + Duration::from_secs(2), "controller".to_string()));
            }
            let behind = commands
                .first()
                .and_then(|n| world.acts.lock().unwrap().get(n - 1).map(|act| act.host.clone()));
            if let Some(machine) = behind.filter(|m| sim.is_host_running(m.as_str())) {
                commands.remove(0);
                sim.crash(machine.as_str());
                back.push((now + Duration::from_secs(1), machine));
            }
            if let Some((machine, _)) =
                cuts.fails.as_ref().filter(|_| !controller.reports.lock().unwrap().is_empty())
            {
                world.machine(machine, |m| m.faults.clear());
            }
            back.retain(|(at, name)| {
                // A machine that was told to reboot or stop meanwhile comes back by its boot.
                if now >= *at && !power.down.contains_key(name) && !power.off.contains(name) {
                    sim.bounce(name.as_str());
                }
                now < *at
            });
        }
        match controller.reports().last() {
            Some(Ok(report)) if report.settled => Ok(controller),
            last => Err(format!("it never settled: {last:?}\n{}", controller.heard())),
        }
    }
}

fn boots(world: &World) -> BTreeMap<String, u64> {
    world.machines().map(|name| (name.clone(), world.machine(name, |m| m.boots))).collect()
}

/// How often a command changed nothing.
fn idle(world: &World) -> BTreeMap<(String, String), usize> {
    let mut idle = BTreeMap::new();
    for act in world.acts().into_iter().filter(|a| a.ok && !a.changed) {
        *idle.entry((act.host, act.call)).or_default() += 1;
    }
    idle
}
