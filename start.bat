@echo off
rem start.bat             set up, then open the studio in the browser   (--demo, --port N ...)
rem start.bat test ...    set up, then run the tests                    (--slow, paths ...)
rem start.bat VERB ...    set up, then python -m thinkswitch VERB ...
setlocal
rem files and output are UTF-8 whatever the code page
set "PYTHONUTF8=1"
set "HERE=%~dp0"
set "VENV=%HERE%.venv"
set "PY=%VENV%\Scripts\python.exe"
set "PIP="%PY%" -m pip install --quiet --disable-pip-version-check"

rem set up again when requirements.txt or pyproject.toml has changed, or the environment's Python does not start
set "WANTED=%TEMP%\thinkswitch-%RANDOM%.txt"
copy /y /b "%HERE%requirements.txt"+"%HERE%pyproject.toml" "%WANTED%" >nul
set "READY=yes"
fc /b "%WANTED%" "%VENV%\installed.txt" >nul 2>&1 || set "READY="
"%PY%" -c "" >nul 2>&1 || set "READY="
if not defined READY (
    call :set_up || (del "%WANTED%" & exit /b 1)
    copy /y "%WANTED%" "%VENV%\installed.txt" >nul
)
del "%WANTED%"

set "FIRST=%~1"
if "%FIRST%"=="" (
    "%PY%" "%HERE%app.py" --open
) else if "%FIRST:~0,1%"=="-" (
    "%PY%" "%HERE%app.py" --open %*
) else if "%FIRST%"=="test" (
    call :test %*
) else (
    "%PY%" -m thinkswitch %*
)
exit /b %errorlevel%

:set_up
echo setting up (once; a few minutes) ...
"%PY%" -m pip --version >nul 2>&1 || call :make_venv || exit /b 1
rem Windows wheels of torch come without CUDA; with an NVIDIA card take PyTorch's own index first
where nvidia-smi >nul 2>&1 && %PIP% torch==2.13.0 --index-url https://download.pytorch.org/whl/cu130
%PIP% -r "%HERE%requirements.txt" || exit /b 1
rem torch brings the setuptools that this needs, so nothing else is downloaded
%PIP% --no-deps --no-build-isolation --editable "%HERE%." || exit /b 1
exit /b 0

:make_venv
py -3 -c "import sys; sys.exit(sys.version_info < (3, 11))" || (echo error: Python 3.11 or newer is needed 1>&2 & exit /b 1)
py -3 -m venv --clear "%VENV%" && exit /b 0
rem half made, it would break every later start
rmdir /s /q "%VENV%" 2>nul
echo error: Python could not make %VENV%; install Python anew from python.org, with pip 1>&2
exit /b 1

:test
fc /b "%HERE%requirements-dev.txt" "%VENV%\installed-tests.txt" >nul 2>&1
if errorlevel 1 (
    %PIP% -r "%HERE%requirements-dev.txt" || exit /b 1
    copy /y "%HERE%requirements-dev.txt" "%VENV%\installed-tests.txt" >nul
)
cd /d "%HERE%"
rem all arguments but the first
for /f "tokens=1,*" %%a in ("%*") do "%PY%" -m pytest -n 2 --dist worksteal %%b
exit /b %errorlevel%
