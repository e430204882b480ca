#!/usr/bin/env bash
# The spec file of RPMs: its grammar, its scripts, and that it lists what is installed, all of it and nothing else. By Debian's
# rpmbuild with macros of our own and the objects of the Debian packages: not shown is that Fedora's macros and packages fit.
# time limit: 600 s
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
need rpmbuild rpm meson
OBJECTS=$LM_BUILD/package/objects
[ -e "$LM_BUILD/package/tree/meson.build" ] || skip "no objects of packages: run package"
make_work rpm
cat >"$WORK/macros" <<END
%_topdir $WORK/rpm
%_tmppath $WORK/tmp
%_unitdir /lib/systemd/system
%_sbindir /usr/sbin
%_mandir /usr/share/man
%_sysconfdir /etc
%_sysusersdir /usr/lib/sysusers.d
%_tmpfilesdir /usr/lib/tmpfiles.d
%meson :
%meson_build :
%meson_install DESTDIR=%{buildroot} meson install -C $OBJECTS --no-rebuild
%tmpfiles_create systemd-tmpfiles --create
%systemd_post systemctl preset
%systemd_preun systemctl stop
%systemd_postun_with_restart systemctl try-restart
%debug_package %{nil}
END
mkdir -p "$WORK/rpm/RPMS"
cp -a "$LM_BUILD/package/tree" "$WORK/rpm/BUILD"
sed '/^Source0:/d; /^%autosetup/d' "$LM_ROOT/deploy/rpm/lamella.spec" >"$WORK/lamella.spec"
rpmbuild --macros "/usr/lib/rpm/macros:/usr/lib/rpm/platform/%{_target}/macros:$WORK/macros" --nodeps -bb "$WORK/lamella.spec" >"$WORK/log/rpmbuild.log" 2>&1 ||
	fail "rpmbuild: $(tail -n 20 "$WORK/log/rpmbuild.log")"
for rpm in "$WORK/rpm/RPMS"/*/*.rpm; do
	say "${rpm##*/}: $(rpm -qpl "$rpm" | wc -l) files"
	rpm -qp --scripts "$rpm" | sed -n '/scriptlet/!p' | sh -n || fail "${rpm##*/}: its scripts are no shell"
done
[ "$(find "$WORK/rpm/RPMS" -name '*.rpm' | wc -l)" = 2 ] || fail "not two packages"
say "passed"
