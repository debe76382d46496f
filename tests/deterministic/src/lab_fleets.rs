//! The fleets of the lab as worlds of the simulation: the machines that real agents are tried on, copied into
//! memory.

use crate::world::{Acts, PORT, World, own_folder};
use std::path::Path;
use vsgpu::fleet::Fleet;
use vsgpu_tests::fakes::state::Machine;
use vsgpu_tests::lab::{Lab, files, small_fleet};

/// A fleet that was never touched, to be copied as often as it is tried.
pub struct Example {
    lab: Lab,
    machines: Vec<String>,
    pub fleet: Fleet,
}

impl Example {
    /// One host, a VM with a vGPU, its guest up to the proof.
    pub fn small() -> Self {
        Self::of("small", |lab| {
            lab.host("esx-01", "8.0.2", vec![files::a100("0000:3b:00.0")]);
            lab.vm("vm-01", "esx-01");
            lab.write_fleet(&small_fleet::small_fleet(lab, ""));
        })
    }

    /// The demo: vGPUs of two releases, whole GPUs, five guests.
    pub fn demo() -> Self {
        Self::of("demo", Lab::demo_fleet)
    }

    /// `packaging/examples/large.yaml`: MIG, mixed sizes, clones, several clusters.
    pub fn large() -> Self {
        Self::of("large", Lab::large_fleet)
    }

    fn of(name: &str, make: impl Fn(&Lab)) -> Self {
        let lab = Lab::new(&format!("example-{name}"));
        make(&lab);
        // Sending is not what is tried here.
        files::write_sized(&lab.folder.join("files"), |_| 500);
        let machines = lab.machines();
        let mut text = lab.fleet();
        for name in &machines {
            text = text.replace(&lab.address(name), &format!("{name}:{PORT}"));
        }
        lab.write_fleet(&text);
        let mut fleet = vsgpu::fleet::file::read(&lab.folder.join("fleet.yaml")).unwrap();
        vsgpu::fleet::file::resolve(&mut fleet).unwrap();
        Self { lab, machines, fleet }
    }

    /// A copy of its machines, as they were before anything was done.
    pub fn world(&self) -> World {
        let folder = own_folder();
        let (mut hosts, mut guests) = (vec![], vec![]);
        for name in &self.machines {
            let (from, to) = (self.lab.machine(name), folder.join(name));
            copy(&from, &to);
            let machine = Machine::read(&from);
            let kind = if machine.esxi.is_some() { &mut hosts } else { &mut guests };
            kind.push(name.clone());
            Machine::keep_in_memory(&to, machine);
        }
        World { hosts, guests, acts: Acts::default(), folder, seed: 1 }
    }
}

/// Files, folders, and links to the simulator as they are.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let (kind, to) = (entry.file_type().unwrap(), to.join(entry.file_name()));
        if kind.is_dir() {
            copy(&entry.path(), &to);
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(std::fs::read_link(entry.path()).unwrap(), to).unwrap();
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}
