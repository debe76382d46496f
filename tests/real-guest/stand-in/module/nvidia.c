// SPDX-License-Identifier: GPL-2.0
/* SIMULATED: a module of the name `nvidia` for the tests of vsgpu. It drives nothing; it loads, has a version, and is there. */
#include <linux/fs.h>
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>

static int NVreg_EnableGpuFirmware = 1;
module_param(NVreg_EnableGpuFirmware, int, 0444);
static struct proc_dir_entry *folder, *driver;

static int show(struct seq_file *out, void *unused)
{
	seq_puts(out, "NVRM version: NVIDIA UNIX x86_64 Kernel Module  @VERSION@  (SIMULATED by vsgpu's tests)\n");
	return 0;
}

static int open_device(struct inode *inode, struct file *file)
{
	return 0;
}

static const struct file_operations operations = { .owner = THIS_MODULE, .open = open_device };

static int __init start(void)
{
	int failed = register_chrdev(195, "nvidia", &operations);
	if (failed < 0)
		return failed;
	driver = proc_mkdir("driver/nvidia", NULL);
	folder = proc_create_single("driver/nvidia/version", 0444, NULL, show);
	pr_info("NVRM: loading NVIDIA UNIX x86_64 Kernel Module  @VERSION@  (SIMULATED)\n");
	return 0;
}

static void __exit stop(void)
{
	proc_remove(folder);
	proc_remove(driver);
	unregister_chrdev(195, "nvidia");
}

module_init(start);
module_exit(stop);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("SIMULATED NVIDIA module of vsgpu's tests");
MODULE_VERSION("@VERSION@");
