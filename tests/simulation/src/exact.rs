//! Not by chance but by count: the controller's power cut behind each record and each pair of records, the agent killed behind
//! each command, each command failing, of the whole plan of a host. Every time the host ends as wished, with one reboot.

use crate::Rng;
use crate::scenario::{as_wished, reboots};
use crate::world::{Controller, Power, TICK, World, fleet};
use std::time::Duration;
use vsgpu_tests::sim::state::Fault;

/// What goes wrong.
#[derive(Clone, Debug, Default)]
pub struct Cuts {
    /// The controller loses its power when so many commits are on its disk.
    pub records: Vec<usize>,
    /// The agent is killed when so many commands have changed its host.
    pub commands: Vec<usize>,
    /// This command fails until the controller has reported once.
    pub fails: Option<String>,
}

/// What a run without trouble writes and does: commits, and the commands that change the host.
pub fn clean() -> Result<(usize, Vec<String>), String> {
    let world = World::new(1, 1);
    let controller = play(&world, &Cuts::default())?;
    Ok((controller.disk.writes(), world.acts().into_iter().map(|a| a.call).collect()))
}

/// One run with this trouble.
///
/// # Errors
/// What was not as it has to be.
pub fn run(cuts: &Cuts) -> Result<(), String> {
    let world = World::new(1, 1);
    let told = |why: String| {
        let acts: String = world.acts().iter().map(|a| format!("{:?} {} changed={}\n", a.at, a.call, a.changed)).collect();
        format!("{cuts:?}: {why}\n{acts}")
    };
    let controller = play(&world, cuts).map_err(&told)?;
    controller.broken.lock().unwrap().first().cloned().map_or(Ok(()), |why| Err(told(why)))?;
    as_wished(&world, "Consolidation").map_err(&told)?;
    reboots(&world, 1).map_err(&told)?;
    if let Some(act) = world.acts().iter().find(|a| a.ok && !a.changed) {
        return Err(told(format!("I2: done twice: {}", act.call)));
    }
    if cuts.fails.is_none() && controller.disk.files().len() != 1 {
        return Err(told(format!("{} runs were made where one was enough", controller.disk.files().len())));
    }
    Ok(())
}

fn play(world: &World, cuts: &Cuts) -> Result<Controller, String> {
    let mut rng = Rng::new(7);
    let mut sim =
        turmoil::Builder::new().rng_seed(7).tick_duration(TICK).simulation_duration(Duration::from_secs(7200)).tcp_capacity(4096).build();
    world.agent(&mut sim, "esx-01", 1000);
    let controller = Controller::new(world, "controller", fleet(1, "Consolidation", "{}"));
    controller.start(&mut sim);
    if let Some(call) = &cuts.fails {
        let fault = Fault::Fail { text: "Error: not today\n".into() };
        world.machine("esx-01", |m| drop(m.faults.insert(call.trim().into(), fault)));
    }
    let (mut records, mut commands) = (cuts.records.clone(), cuts.commands.clone());
    let (mut power, mut back) = (Power::default(), vec![]);
    while !controller.done() {
        sim.step().map_err(|e| e.to_string())?;
        world.power(&mut sim, &mut rng, &mut power);
        let now = sim.elapsed();
        if now > Duration::from_secs(3600) {
            return Err("nothing is settled after an hour".into());
        }
        if records.first().is_some_and(|n| controller.disk.writes() >= *n) && sim.is_host_running("controller") {
            records.remove(0);
            sim.crash("controller");
            controller.disk.power_cut(&mut rng);
            back.push((now + Duration::from_secs(2), "controller"));
        }
        if commands.first().is_some_and(|n| world.acts().len() >= *n) && sim.is_host_running("esx-01") {
            commands.remove(0);
            sim.crash("esx-01");
            back.push((now + Duration::from_secs(1), "esx-01"));
        }
        if !controller.reports().is_empty() {
            world.machine("esx-01", |m| m.faults.clear());
        }
        back.retain(|(at, name)| {
            // A host that was told to reboot meanwhile comes back by its boot.
            if now >= *at && !power.down.contains_key(*name) {
                sim.bounce(*name);
            }
            now < *at
        });
    }
    Ok(controller)
}
