@echo off
rem start.bat             set up, then open the studio in the browser   (--demo, --port N ...)
rem start.bat test        set up, then run the tests
rem start.bat VERB ...    set up, then python -m thinkswitch VERB ...
setlocal
set "HERE=%~dp0"
set "PY=%HERE%.venv\Scripts\python.exe"
if not exist "%PY%" (
    py -3 -c "import sys; sys.exit(sys.version_info < (3, 11))" || (echo error: Python 3.11 or newer is needed 1>&2 & exit /b 1)
    py -3 -m venv "%HERE%.venv" || exit /b 1
)
fc /b "%HERE%requirements.txt" "%HERE%.venv\installed.txt" >nul 2>&1
if errorlevel 1 (
    echo setting up ^(once; a few minutes^) ...
    rem Windows wheels of torch come without CUDA; with an NVIDIA card take PyTorch's own index first
    where nvidia-smi >nul 2>&1 && "%PY%" -m pip install --quiet torch==2.13.0 --index-url https://download.pytorch.org/whl/cu130
    "%PY%" -m pip install --quiet --disable-pip-version-check -r "%HERE%requirements.txt" || exit /b 1
    copy /y "%HERE%requirements.txt" "%HERE%.venv\installed.txt" >nul
)
set "PYTHONPATH=%HERE%;%PYTHONPATH%"
set "FIRST=%~1"
if "%FIRST%"=="" (
    "%PY%" "%HERE%app.py" --open
) else if "%FIRST:~0,1%"=="-" (
    "%PY%" "%HERE%app.py" --open %*
) else if "%~1"=="test" (
    cd /d "%HERE%" && "%PY%" -m pytest tests
) else (
    "%PY%" -m thinkswitch %*
)
exit /b %errorlevel%
