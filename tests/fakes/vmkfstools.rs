//! Simulated vmkfstools: copies and deletes disks.

use super::Answer;
use super::state::Machine;
use std::path::Path;

pub fn run(folder: &Path, words: &[&str]) -> Answer {
    let mut machine = Machine::read(folder);
    match words {
        ["-i", from, to, "-d", "thin"] => {
            let (source, target) = (machine.root(from), machine.root(to));
            if !source.exists() {
                return Answer::fail(
                    255,
                    "Failed to clone disk: The system cannot find the file specified (25).\n",
                );
            }
            // The disks of a VM that runs are locked.
            let stem = from.rsplit_once('/').map_or("", |(folder, _)| folder).to_string();
            let locked = |vm: &super::state::Vm| {
                vm.on && format!("/vmfs/volumes/{}/{}", vm.datastore, vm.file).starts_with(&stem)
            };
            if machine.esxi().vms.iter().any(locked) {
                return Answer::fail(255, "Failed to clone disk: Failed to lock the file (16392).\n");
            }
            if target.exists() {
                return Answer::fail(
                    255,
                    "Failed to clone disk: The destination file already exists (5). (simulated)\n",
                );
            }
            std::fs::copy(source, target).unwrap();
            Answer::ok(format!(
                "Destination disk format: VMFS thin-provisioned\nCloning disk '{from}'...\nClone: 100% done.\n"
            ))
        }
        ["-U", disk] => match std::fs::remove_file(machine.root(disk)) {
            Ok(()) => Answer::ok(""),
            Err(_) => Answer::fail(
                255,
                "Failed to delete virtual disk: The system cannot find the file specified (25).\n",
            ),
        },
        _ => Answer::fail(1, "vmkfstools: simulated: only -i SOURCE TARGET -d thin and -U DISK\n"),
    }
}
