//! Stands in for esxcli, vim-cmd, nvidia-smi, systemctl and the others: the name it is called by decides.
#![allow(clippy::exit, reason = "test code")]

fn main() {
    vsgpu_tests::fakes::main();
}
