//! GPUs over the network and another user of the same machine. Only root can come as another user.

use nix::sys::signal::Signal;
use vsgpu_tests::lab::gpu_pool::{GpuPool, read_as_nobody, two_teams};
use vsgpu_tests::lab::programs;
use vsgpu_tests::lab::small_fleet::small;

/// A port on loopback is open to every local user; a GPU lease is its user's alone. And who may ask at all is
/// decided by who he is.
fn another_local_user_gets_nothing() {
    let pool = GpuPool::new("pool-users", 1, two_teams(), &["ml-1"]);
    let shell =
        format!("echo at $LUPINE_SERVER; {} program hold", programs().join("vsgpu-stand-in").display());
    let running = pool.command("ml-1", &["run", "--", "sh", "-c", &shell]);
    running.wait_for("pong");
    let said = running.said();
    let address = said.lines().find_map(|line| line.strip_prefix("at ")).unwrap();
    assert_eq!(read_as_nobody(address), "", "{}", pool.logs());
    assert!(pool.logs().contains("another user's program came to a GPU lease's port"), "{}", pool.logs());
    running.signal(Signal::SIGKILL);
    // `nobody` is in no group that may.
    let (status, said) = pool.run_as_nobody("ml-1");
    assert!(
        status == Some(77) && said.contains("may not ask for GPUs: on this machine only root may"),
        "{said}"
    );
    let path = "/etc/vsgpu/network-gpu.json";
    let group = nix::unistd::Group::from_gid(65_534.into()).unwrap().unwrap().name;
    let text = pool.lab.state("ml-1").text(path).unwrap();
    pool.lab.change("ml-1", |m| {
        m.write(path, &text.replace("\"groups\":[]", &format!("\"groups\":[\"{group}\"]")))
    });
    pool.all_free(1);
    let (status, said) = pool.run_as_nobody("ml-1");
    assert_eq!(status, Some(0), "{said}");
}

/// The operator's keys belong to one user: another one is told whose they are.
fn who_has_no_rights_is_told_whose_the_files_are() {
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::process::CommandExt as _;
    let lab = small("no-rights");
    let readable = |path: &str, mode: u32| {
        std::fs::set_permissions(lab.folder.join(path), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    readable(".", 0o755);
    readable("pki", 0o755);
    let said = |words: &[&str]| {
        let output = lab.command(words).uid(65_534).gid(65_534).output().unwrap();
        assert_ne!(output.status.code(), Some(0));
        let said = String::from_utf8(output.stderr).unwrap();
        said.replace(&lab.folder.display().to_string(), "LAB")
    };
    let plan = said(&["plan"]);
    assert!(
        plan.contains("controller.key: Permission denied")
            && plan.contains("hint: pki/controller.key belongs to root: run vsgpu as that user; a fleet's folder, its keys and its journals belong to one user")
            && plan.lines().count() <= 5,
        "{plan}"
    );
    // And the journal's folder.
    lab.expect(0, &["apply", "--yes"]);
    readable("pki/controller.key", 0o644);
    readable(".vsgpu", 0o700);
    let status = said(&["status"]);
    assert!(
        status.contains("Permission denied") && status.contains("belongs to root: run vsgpu as that user"),
        "{status}"
    );
}

/// What the agent writes into a user's folder is that user's, the folder as well that it makes there; and a link
/// that he puts there leads it nowhere.
fn what_is_written_into_a_users_home_is_his() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
    use vsgpu_core::System as _;
    let root = std::env::temp_dir().join(format!("vsgpu-homes-{}", std::process::id()));
    std::fs::create_dir_all(root.join("home/ada")).unwrap();
    chown(root.join("home/ada"), Some(65_534), Some(65_534)).unwrap();
    let posix = vsgpu_machine::Posix::new(None, root.clone());
    posix.write("/home/ada/.bitfusion/client.yaml", b"secret", 0o600).unwrap();
    posix.write("/etc/own", b"root's", 0o600).unwrap();
    let of = |path: &str| {
        let meta = root.join(path).metadata().unwrap();
        (meta.uid(), meta.gid(), meta.permissions().mode() & 0o777)
    };
    assert_eq!(of("home/ada/.bitfusion/client.yaml"), (65_534, 65_534, 0o600));
    assert_eq!((of("home/ada/.bitfusion").0, of("etc/own").0), (65_534, 0));
    std::fs::remove_dir_all(root.join("home/ada/.bitfusion")).unwrap();
    symlink("../../etc", root.join("home/ada/.bitfusion")).unwrap();
    let why = posix.write("/home/ada/.bitfusion/own", b"ada's", 0o600).unwrap_err();
    assert!(why.to_string().contains("somebody else may have made"), "{why}");
    assert_eq!(std::fs::read(root.join("etc/own")).unwrap(), b"root's");
    std::fs::remove_dir_all(root).unwrap();
}

pub const TESTS: &[vsgpu_tests::harness::Test] = vsgpu_tests::tests![
    another_local_user_gets_nothing[Root],
    what_is_written_into_a_users_home_is_his[Root],
    who_has_no_rights_is_told_whose_the_files_are[Root]
];
