//! Whether the disks have the room that a change needs. Asked by requirements before anything is changed.

use crate::machine::Disk;
use crate::requirement::Verdict;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Free room where a change writes, as a requirement's fact keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Room {
    /// The path.
    pub path: String,
    /// Which disk it is: paths with the same one share its room.
    pub disk: String,
    /// Free, bytes: rounded up to 64 MiB, and no more than 16 GiB is told. So it does not change with every
    /// file that a guest writes, and is the same on most guests of a kind.
    pub free_bytes: u64,
}

const STEP: u64 = 64 << 20;
const PLENTY: u64 = 16 << 30;

impl Room {
    /// Of a disk.
    pub fn of(disk: &Disk) -> Self {
        let free_bytes = disk.free_bytes.min(PLENTY).next_multiple_of(STEP);
        Self { path: disk.path.clone(), disk: disk.disk.clone(), free_bytes }
    }
}

/// Room that a change needs, at least.
#[derive(Clone, Copy, Debug)]
pub struct DiskNeed<'a> {
    /// Where it is written.
    pub path: &'a str,
    /// Bytes, at least.
    pub bytes: u64,
}

/// Whether a disk lacks the room that a change needs: needs of one disk are added up. `None` where there is
/// room, and where the disk of a path is not known: nothing is refused on a guess.
pub fn lacks_room(rooms: &[Room], what: &str, needs: &[DiskNeed<'_>]) -> Option<Verdict> {
    let room_of = |need: &DiskNeed<'_>| rooms.iter().find(|room| room.path == need.path);
    let short = |need: &DiskNeed<'_>| {
        let room = room_of(need)?;
        let same = |other: &&DiskNeed<'_>| room_of(other).is_some_and(|r| r.disk == room.disk);
        let bytes = needs.iter().filter(same).fold(0u64, |all, n| all.saturating_add(n.bytes));
        (room.free_bytes < bytes).then_some((room, bytes))
    };
    // A disk of its own for /tmp is mostly memory, and empty after the next boot: any other one comes first.
    let lacking: Vec<_> = needs.iter().filter_map(short).collect();
    let lasting = lacking.iter().find(|(room, _)| room.disk != "/tmp");
    let (Room { path, disk, free_bytes }, bytes) = *lasting.or(lacking.first())?;
    let why = format!("{path}: {free_bytes} bytes are free, {what} needs at least {bytes} bytes");
    let hint = format!("make room on the disk of {path}: `df -h {path}`");
    Some(if disk == "/tmp" { Verdict::blocked(why, hint) } else { Verdict::blocked_for_good(why, hint) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(path: &str, disk: &str, free_bytes: u64) -> Room {
        Room { path: path.into(), disk: disk.into(), free_bytes }
    }

    #[test]
    fn needs_of_one_disk_are_added_up_and_what_is_not_known_is_not_refused() {
        let needs = [DiskNeed { path: "/tmp", bytes: 60 }, DiskNeed { path: "/usr", bytes: 60 }];
        let why = |rooms: &[Room]| match lacks_room(rooms, "the driver", &needs) {
            Some(Verdict::Blocked { why, .. }) => why,
            None => String::new(),
            other => panic!("{other:?}"),
        };
        let both = |free| [room("/tmp", "/", free), room("/usr", "/", free)];
        assert_eq!(why(&both(119)), "/tmp: 119 bytes are free, the driver needs at least 120 bytes");
        assert_eq!(why(&both(120)), "");
        let apart = [room("/tmp", "/tmp", 60), room("/usr", "/", 59)];
        assert_eq!(why(&apart), "/usr: 59 bytes are free, the driver needs at least 60 bytes");
        assert_eq!(why(&apart[..1]), "", "nothing is known of /usr");
        assert_eq!(why(&[]), "");
    }

    #[test]
    fn only_a_full_tmp_of_its_own_may_mend_itself() {
        let needs = [DiskNeed { path: "/tmp", bytes: 60 }, DiskNeed { path: "/usr", bytes: 60 }];
        let lasts = |tmp: (&str, u64), usr: u64| {
            let rooms = [room("/tmp", tmp.0, tmp.1), room("/usr", "/", usr)];
            matches!(lacks_room(&rooms, "it", &needs), Some(Verdict::Blocked { lasting: true, .. }))
        };
        assert!(
            !lasts(("/tmp", 0), 100)
                && lasts(("/tmp", 0), 0)
                && lasts(("/tmp", 100), 0)
                && lasts(("/", 0), 0)
        );
    }

    #[test]
    fn a_small_change_of_a_disk_changes_no_fact() {
        let of = |free_bytes| {
            Room::of(&Disk { path: "/".into(), disk: "/".into(), size_bytes: 1 << 40, free_bytes }).free_bytes
        };
        assert_eq!((of(0), of(1), of(STEP), of(STEP + 1), of(1 << 39)), (0, STEP, STEP, 2 * STEP, PLENTY));
    }
}
