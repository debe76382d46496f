//! Whether the disks have the room that a change needs. Asked by requirements before anything is changed.

use crate::machine::{Disk, disk_of};
use crate::requirement::Verdict;

/// Room that a change needs, at least.
#[derive(Clone, Copy, Debug)]
pub struct DiskNeed<'a> {
    /// Where it is written.
    pub path: &'a str,
    /// Bytes, at least.
    pub bytes: u64,
}

/// Whether a disk lacks the room that a change needs: needs of one disk are added up. `None` where there is
/// room, and where the disks are not known: nothing is refused on a guess.
pub fn lacks_room(disks: &[Disk], what: &str, needs: &[DiskNeed<'_>]) -> Option<Verdict> {
    let short = |need: &DiskNeed<'_>| {
        let disk = disk_of(disks, need.path)?;
        let same = |other: &&DiskNeed<'_>| disk_of(disks, other.path).is_some_and(|d| d.mount == disk.mount);
        let bytes = needs.iter().filter(same).fold(0u64, |all, n| all.saturating_add(n.bytes));
        (disk.free_bytes < bytes).then_some((disk, bytes))
    };
    let (need, (disk, bytes)) = needs.iter().find_map(|need| short(need).map(|found| (need, found)))?;
    Some(Verdict::blocked(
        format!("{}: {} bytes are free, {what} needs at least {bytes} bytes", need.path, disk.free_bytes),
        format!(
            "make room on the disk of {}: `df -h {}`, `du -xh --max-depth=2 {}`",
            need.path, need.path, disk.mount
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(mount: &str, free_bytes: u64) -> Disk {
        Disk { mount: mount.into(), file_system: "ext4".into(), size_bytes: 100, free_bytes }
    }

    #[test]
    fn needs_of_one_disk_are_added_up_and_what_is_not_known_is_not_refused() {
        let needs = [DiskNeed { path: "/tmp", bytes: 60 }, DiskNeed { path: "/usr", bytes: 60 }];
        let why = |disks: &[Disk]| match lacks_room(disks, "the driver", &needs) {
            Some(Verdict::Blocked { why, .. }) => why,
            None => String::new(),
            other => panic!("{other:?}"),
        };
        assert_eq!(why(&[disk("/", 119)]), "/tmp: 119 bytes are free, the driver needs at least 120 bytes");
        assert_eq!(why(&[disk("/", 120)]), "");
        assert_eq!(
            why(&[disk("/", 60), disk("/usr", 59)]),
            "/usr: 59 bytes are free, the driver needs at least 60 bytes"
        );
        assert_eq!(why(&[]), "");
    }
}
