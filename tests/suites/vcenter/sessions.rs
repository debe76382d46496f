//! Sessions and logins: who is believed, what is tried again and what is not, answers of a hostile server.

use super::*;

/// Each try counts towards the account's lock: a wrong password is tried once, and the next one when it is there.
fn a_refused_login_is_not_tried_again() {
    let (lab, site) = by_api("refused");
    site.password("wrong");
    let _gateway = begin_to_serve(&lab, &site, "host = esx-01.example.com\nhost = esx-09.example.com");
    let log = || std::fs::read_to_string(site.folder.join("log")).unwrap_or_default();
    wait_until("it says so", Duration::from_secs(30), || {
        log().contains("Not tried again before the password")
    });
    // Unlocked with the same password: somebody touches the file.
    let logins =
        || site.served.world.lock().unwrap().calls.iter().filter(|call| call.as_str() == "Login").count();
    let pass = std::fs::File::options().append(true).open(site.folder.join("pass")).unwrap();
    pass.set_modified(SystemTime::now()).unwrap();
    wait_until("it is tried once more", Duration::from_secs(30), || logins() == 2);
    let right = site.served.world.lock().unwrap().password;
    site.password(right);
    wait_until("it listens", Duration::from_secs(30), || site.folder.join("ready").exists());
    assert_eq!(logins(), 3, "{}", log());
    assert!(log().contains("host esx-09.example.com is not in the inventory"), "{}", log());
}

/// Before the certificate is believed nothing is sent, no password above all.
fn nobody_is_believed_unseen() {
    let site = Site::new("trust", two_clusters());
    let (status, said) = site.check(HOSTS);
    assert!(status == 1 && said.contains(&format!("  trust = {}", site.certificate.fingerprint())), "{said}");
    let (status, said) = site.check(&format!("trust = sha256:{}\n{HOSTS}", "ab".repeat(32)));
    assert!(
        status == 1
            && said.contains("shows another certificate than the one that is trusted; nothing was sent"),
        "{said}"
    );
    let ca = site.folder.join("ca.pem");
    std::fs::write(&ca, Certificate::new().ca_pem).unwrap();
    let (status, said) = site.check(&format!("ca = {}\n{HOSTS}", ca.display()));
    assert!(status == 1 && said.contains("its certificate is not one of the CA file's"), "{said}");
    assert_eq!(site.calls(), Vec::<String>::new());
    std::fs::write(&ca, &site.certificate.ca_pem).unwrap();
    let (status, said) = site.check(&format!("ca = {}\n{HOSTS}", ca.display()));
    assert_eq!(status, 0, "{said}");
}

fn a_wrong_password_and_a_full_server_are_told_apart() {
    let site = Site::new("login", two_clusters());
    site.password("wrong");
    let (status, said) = site.trusted(HOSTS);
    assert!(status == 1 && said.contains("user or password is wrong, or the account is locked"), "{said}");
    assert_eq!(
        site.calls().iter().filter(|call| *call == "Login").count(),
        1,
        "an account is locked by tries"
    );
    site.password("a<secret>&\"'");
    site.served.world.lock().unwrap().most_sessions = 0;
    let (status, said) = site.trusted(HOSTS);
    assert!(status == 1 && said.contains("it starts, or has too many sessions"), "{said}");
    // A server that stands alone, under the wrong key and under the right one.
    let world = &site.served.world;
    world.lock().unwrap().most_sessions = 5;
    world.lock().unwrap().is_vcenter = false;
    site.calls();
    let (status, said) = site.trusted(HOSTS);
    assert!(status == 1 && said.contains("this is a host: `esxi = localhost:"), "{said}");
    assert!(!site.calls().contains(&"Login".to_string()), "a password went to another than was meant");
    let (status, said) = site.check_as("esxi", &format!("trust = {}", site.certificate.fingerprint()));
    assert!(status == 0 && said.contains("VMware ESXi 8.0.3 build-0 (simulated)"), "{said}");
}

/// A session may end at any call: it is begun again, and every answer is whole.
fn a_session_that_ends_is_begun_again() {
    let hosts = [("esx-01", Some(0)), ("esx-02", Some(0)), ("alone.example.com", None)];
    let mut world = World::new(hosts.map(|(name, cluster)| SimHost::new(name, cluster)).to_vec());
    world.page = 2;
    let site = Site::new("session", world);
    let whole = site.trusted(HOSTS);
    let calls = site.calls().len();
    for at in 4..calls {
        site.served.world.lock().unwrap().session_ends_after = Some(at);
        assert_eq!(site.trusted(HOSTS), whole, "ended behind call {at}");
        assert!(site.served.world.lock().unwrap().session_ends_after.is_none());
        let logins = site.calls().iter().filter(|call| *call == "Login").count();
        assert!(logins <= 2, "ended behind call {at}: {logins} logins");
        site.served.world.lock().unwrap().sessions.clear();
    }
}

fn hostile_answers_are_refused_in_words() {
    let site = Site::new("hostile", two_clusters());
    let deep = format!("{}{}", "<a>".repeat(100_000), "</a>".repeat(100_000));
    let many = format!("<a>{}</a>", "<b/>".repeat(400_000));
    let bomb = "<!DOCTYPE a [<!ENTITY x \"xxxxxxxxxx\">]><a>&x;&x;</a>".to_string();
    for (call, status, headers, body, words) in [
        ("RetrieveServiceContent", 302, "Location: https://elsewhere/sdk\r\n", String::new(), "sends us elsewhere"),
        ("RetrieveServiceContent", 200, "", "<html><body><p>login</p></body></html>".into(), "no answer of the API"),
        ("RetrieveServiceContent", 200, "", deep, "nested deeper than"),
        ("RetrievePropertiesEx", 200, "", many, "more than 300000 elements"),
        ("RetrievePropertiesEx", 200, "", bomb, "is not known"),
        ("Login", 200, "", "x".repeat((64 << 20) + 1), "larger than 64 MiB"),
        ("HasPrivilegeOnEntities", 200, "", "<soap".into(), "cut off or broken"),
        ("CreateContainerView", 500, "", "<e><Body><Fault><faultcode>c</faultcode><faultstring>a\u{1b}[31mred\nline</faultstring></Fault></Body></e>".into(), "a\\u001b[31mred"),
    ] {
        let instead = (status, headers.to_string(), body.into_bytes());
        site.served.world.lock().unwrap().instead = [(call, instead)].into();
        let (status, said) = site.trusted(HOSTS);
        assert!(status == 1 && said.contains(words) && said.len() < 2_000, "{call}: {words}: {}", &said[..said.len().min(2_000)]);
        assert!(!said.contains('\u{1b}'), "{said}");
        site.served.world.lock().unwrap().sessions.clear();
    }
}

pub const TESTS: &[vsgpu_tests::harness::Test] = vsgpu_tests::tests![
    a_refused_login_is_not_tried_again,
    nobody_is_believed_unseen,
    a_wrong_password_and_a_full_server_are_told_apart,
    a_session_that_ends_is_begun_again,
    hostile_answers_are_refused_in_words
];
